import torch
import torch.nn.functional as F


def relation_divergence(student: torch.Tensor,
                        teacher: torch.Tensor) -> torch.Tensor:
    """KL(softmax(teacher) || softmax(student)) of an image's rows.

    Args:
        student (torch.Tensor): Relations of each token to all tokens, before
            the softmax: (B, ..., N, N).
        teacher (torch.Tensor): The same of the teacher.

    Returns:
        torch.Tensor: The mean over an image's rows, (B,).
    """
    divergence = F.kl_div(
        F.log_softmax(student, dim=-1),
        F.log_softmax(teacher, dim=-1),
        reduction='none',
        log_target=True).sum(dim=-1)
    return divergence.flatten(1).mean(dim=1)
