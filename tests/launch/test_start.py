"""What the console is spared, and the log file is not."""
from pathlib import Path

import pytest
from mmengine.config import Config

from dmae_mm.launch.start import build_runner
from tests.toys.runs import write_toy_run


@pytest.mark.parametrize('brief', [False, True])
def test_a_brief_run(tmp_path, capsys, brief):
    cfg = Config.fromfile(write_toy_run(tmp_path / 'toy'))
    cfg.work_dir, cfg.experiment_name = str(tmp_path / 'out'), str(tmp_path)
    runner = build_runner(cfg, brief)
    runner.logger.info('backbone out_indices: (4,)')
    runner.logger.warning('a.b is skipped since its requires_grad=False')
    runner.logger.info('Epoch 1')
    said = capsys.readouterr().out
    log = next(Path(cfg.work_dir).glob('*/*.log')).read_text()
    for text in ('System environment', 'Config:', 'Hooks will be executed',
                 'out_indices'):
        assert text in log and (text in said) is not brief
    assert 'a.b is skipped' in log and 'a.b is skipped' not in said
    assert 'Epoch 1' in said
