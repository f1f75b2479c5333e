"""The integer result in front, the gradient of real arithmetic behind it."""

import torch

__all__ = ["codes_for", "values_for"]


class _Codes(torch.autograd.Function):
    """Codes times their scale instead of a real tensor; gradients of a quantizer that rounds it.

    The real tensor gets the gradient where the codes can express it, and nothing where they
    saturate. The logarithm of the scale gets that of ``scale * code`` with a code that follows its
    real number one to one: Esser et al. 2020, "Learned step size quantization", whose factor makes
    it comparable to those of weights.
    """

    @staticmethod
    def forward(ctx, real, moved, codes, scale, low, high):
        ctx.save_for_backward(real, codes, scale)
        ctx.range, ctx.like = (low, high), moved
        return codes * scale

    @staticmethod
    def backward(ctx, gradient):
        real, codes, scale = ctx.saved_tensors
        low, high = ctx.range
        place = real / scale
        inside = (place >= low - 0.5) & (place <= high + 0.5)
        by_scale = None
        if ctx.like is not None and ctx.needs_input_grad[1]:
            share = gradient * scale * torch.where(inside, codes - place, codes)
            by_scale = share.sum() if ctx.like.ndim == 0 else share.sum(dim=-1)
            by_scale = by_scale * (share.numel() / by_scale.numel() * high) ** -0.5
            by_scale = by_scale.to(ctx.like.dtype)
        return gradient * inside, by_scale, None, None, None, None


def codes_for(real, moved, codes, scale, low, high):
    """Return ``codes * scale``, with the gradients of `real` and of its scale.

    Parameters
    ----------
    real : Tensor
        What real arithmetic makes.
    moved : Tensor or None
        Logarithm of the factor by which the scale has been changed: a number, or (N,) of the rows
        of a matrix.
    codes, scale : Tensor
        What the integer network has instead, and the real value of one code; broadcast.
    low, high : int
        Ends of the codes' range.
    """
    return _Codes.apply(real, moved, codes, scale, low, high)


def values_for(real, values):
    """Return `values` with the gradient of `real`: a tensor without a range that it could leave."""
    return real + (values - real).detach()
