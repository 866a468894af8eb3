"""What a launcher tells its processes."""
import os

import pytest

from dmae_mm.launch.processes import (choose_port, is_first_process,
                                      number_of_processes)


@pytest.mark.parametrize('launcher, number, rank', [
    ('pytorch', 'WORLD_SIZE', 'RANK'),
    ('slurm', 'SLURM_NTASKS', 'SLURM_PROCID'),
    ('mpi', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_RANK'),
])
def test_processes(launcher, number, rank, monkeypatch):
    monkeypatch.setenv(number, '6')
    monkeypatch.setenv(rank, '2')
    assert number_of_processes(launcher) == 6
    assert not is_first_process(launcher)
    assert number_of_processes('none') == 1 and is_first_process('none')
    assert number_of_processes(None) == 1


def port(monkeypatch, launcher='slurm', **variables):
    for name in ('MASTER_PORT', 'SLURM_JOB_ID', 'SLURM_STEP_ID'):
        # Set first, so that what the call sets is undone as well.
        monkeypatch.setenv(name, '0')
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    choose_port(launcher)
    return os.environ.get('MASTER_PORT')


def test_jobs_of_slurm_have_ports_of_their_own(monkeypatch):
    ports = [port(monkeypatch, SLURM_JOB_ID=str(job), SLURM_STEP_ID=str(step),
                  SLURM_PROCID=str(task))
             for job in (1, 2, 3, 123456789) for step in (0, 1)
             for task in (0, 1)]
    # All tasks of a step the same, all steps another.
    assert ports[::2] == ports[1::2] and len({*ports}) == 8
    # Not those that Linux gives to any program.
    assert all(1024 < int(each) < 32768 for each in ports)


def test_a_given_port_wins(monkeypatch):
    assert port(monkeypatch, SLURM_JOB_ID='1', MASTER_PORT='77') == '77'
    assert port(monkeypatch) is None  # outside of a job
    assert port(monkeypatch, 'pytorch', SLURM_JOB_ID='1') is None
