import torch


def teacher_dropping(losses: torch.Tensor, draws: torch.Tensor,
                     probability: float) -> torch.Tensor:
    """Weights that keep an image's worst teacher and drop others at random.

    `UNIC <https://arxiv.org/abs/2408.05088>`_, section 3.3 (teacher
    dropping): the student shall not learn the easy teachers at the expense of
    the hard ones. Of each image, the teacher with the largest loss stays, and
    each other one is dropped with a probability. The loss of the batch is
    ``(weights * losses).sum()``, the mean over what was kept; the sum of a
    teacher's row is that teacher's share. Nothing waits for the device.

    Args:
        losses (torch.Tensor): Loss of each teacher and image, (T, B).
        draws (torch.Tensor): Uniform in [0, 1), (T, B). Those of the teachers
            that stay are not read.
        probability (float): Of dropping, from 0 to 1.

    Returns:
        torch.Tensor: (T, B), without gradient: equal for all that is kept, 0
        for what is dropped, 1 in sum.
    """
    losses = losses.detach()
    teachers = torch.arange(len(losses), device=losses.device).unsqueeze(1)
    worst = teachers == losses.argmax(dim=0)  # (T, B)
    keep = (worst | (draws >= probability)).to(losses.dtype)
    return keep / keep.sum()
