from typing import Any, List

from mmpretrain.datasets import CustomDataset
from mmpretrain.registry import DATASETS

from dmae_mm.options import reject_unknown_options


@DATASETS.register_module()
@reject_unknown_options
class SpreadImages(CustomDataset):
    """Some images of a folder, evenly spread over it in its order.

    For rehearsals: the first images of a folder of classes, which ``indices``
    of any data set would take, would be of one class. Everything else is as
    in mmpretrain's ``CustomDataset``.

    Args:
        num_images (int): How many. All, if there are fewer.
        **kwargs: Options of ``CustomDataset``.

    Raises:
        ValueError: If ``num_images`` is no int of at least 1.
    """

    def __init__(self, num_images: int, **kwargs: Any) -> None:
        if type(num_images) is not int or num_images < 1:
            raise ValueError(f'num_images={num_images!r} is not an int of at '
                             'least 1.')
        self.num_images = num_images
        super().__init__(**kwargs)

    def load_data_list(self) -> List[dict]:
        """Paths, and labels where there are any, of these images.

        Returns:
            list[dict]: One for each.
        """
        found = super().load_data_list()
        wanted = min(len(found), self.num_images)
        return [found[i * len(found) // wanted] for i in range(wanted)]
