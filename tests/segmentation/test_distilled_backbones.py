"""A backbone of FeatureDistiller is mmseg's own, as it is."""
import pytest

import tests.toys.needs_mmseg  # noqa: F401, I001
from tests.toys.distilled_backbones import CASES, check_loads


@pytest.mark.parametrize('ours, theirs', CASES.values(), ids=CASES)
def test_it_loads_with_equal_features(ours, theirs, tmp_path):
    import mmseg.models  # noqa: F401
    from mmseg.registry import MODELS
    check_loads('mmseg', MODELS, ours, theirs, str(tmp_path / 'model.pth'))
