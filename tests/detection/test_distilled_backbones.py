"""A backbone of FeatureDistiller is mmdet's own, as it is."""
import pytest

import tests.toys.needs_mmdet  # noqa: F401, I001
from tests.toys.distilled_backbones import CASES, check_loads


@pytest.mark.parametrize('ours, theirs', CASES.values(), ids=CASES)
def test_it_loads_with_equal_features(ours, theirs, tmp_path):
    import mmdet.models  # noqa: F401
    from mmdet.registry import MODELS
    check_loads('mmdet', MODELS, ours, theirs, str(tmp_path / 'model.pth'))
