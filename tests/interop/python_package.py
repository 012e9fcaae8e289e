"""The Python package on PyTorch's tensors: every type and format, parameters, views, and values written into a tensor."""

import sys

import torch

import wgquant

TYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def main():
    torch.manual_seed(1)
    n_compared = 0
    for name, dtype in TYPES.items():
        weights = torch.randn(96, 512).to(dtype)
        bits = weights.view(torch.int32 if name == "f32" else torch.int16).numpy()
        for format in wgquant.FORMATS:
            expected = wgquant.quantize(bits, format, dtype=name, device="cpu")
            found = wgquant.quantize(weights, format, device="cpu")
            same = found == expected and found.dtype == name and found.shape == (96, 512)
            parameter = torch.nn.Parameter(weights)
            same &= wgquant.quantize(parameter, format, device="cpu") == expected
            turned = wgquant.quantize(weights.t(), format, device="cpu")
            same &= turned == wgquant.quantize(weights.t().contiguous(), format, device="cpu")
            same &= turned != expected
            out = torch.zeros_like(weights)
            at = out.data_ptr()
            wgquant.dequantize(found, out=out, device="cpu")
            values = torch.from_numpy(wgquant.dequantize(found, dtype="f32", device="cpu"))
            same &= out.data_ptr() == at and torch.equal(out, values.to(dtype))
            if not same:
                sys.exit(f"{format} of a {dtype} tensor differs")
            n_compared += weights.numel()
    bad = torch.ones(64, 64, dtype=torch.bfloat16)
    bad[3, 5] = float("nan")
    try:
        wgquant.quantize(bad, "nf4", device="cpu")
    except wgquant.NonFiniteError as error:
        assert error.index == 3 * 64 + 5, error
    else:
        sys.exit("a NaN was taken")
    print(f"PyTorch tensors: {n_compared} weights of 3 types in {len(wgquant.FORMATS)} formats, 0 differ")


main()
