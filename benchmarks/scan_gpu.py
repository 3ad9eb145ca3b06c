"""Time the selective scan, MERba's mixer and a whole training step of merba on a GPU.

    python benchmarks/scan_gpu.py [--batch 128] [--repeats 20] [--sweep] [--out FILE]

Three tables, all medians over the repeats in milliseconds by CUDA events, backends in turn:
  scan    at the sizes of stages 2, 3, 4 with four directions; "merged" is the scan with the
          directions inside, which returns one map and not four
  mixer   LocalMixer, forward and backward, under bfloat16 autocast
  step    forward, loss, backward and AdamW of merba under bfloat16 autocast, and by torch's profiler
          what of it are the scan's kernels and what are matrix products (convolutions and attention
          among them)
With --sweep it times the launch settings of scan_triton instead and writes nothing.
Without a CUDA device it says so and exits with 1.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from statistics import median

import torch
from flow_engines import RESULTS, machine
from torch import Tensor

from mepipe.errors import UsageError
from mepipe.workspace import versions
from mepipe_model.models import create_model
from mepipe_model.models.mixer import LocalMixer
from mepipe_model.ops import scan_backend, selective_scan

DEVICE = "cuda"
WINDOW, STATES, SCANS = (7, 7), 8, "a+b+c+d"
STAGES = {2: (16, 128), 3: (4, 256), 4: (1, 512)}  # windows per image, channels of the scan
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
BACKENDS = ("triton", "mamba_ssm", "recompute")
SCAN_KERNELS = re.compile(r"^(scan_forward|scan_backward)$|selective_scan_(fwd|bwd)_kernel")
CONV_KERNELS = re.compile(r"^conv_(forward|backward)$")
# Operators whose kernels are matrix products; a profiler books a kernel on the operator that launched it.
MATRIX = re.compile(r"^aten::(mm|addmm|bmm|baddbmm|addbmm|cudnn_convolution|convolution_backward|.*attention.*)$")
# Launch settings of scan_triton, each tried with the others left as they are.
SWEEP = {"FORWARD_WARPS": (1, 2, 4), "BACKWARD_WARPS": (1, 2), "REBUILT": (16, 32, 56), "PROGRAMS": (2048, 4096, 16384)}


def gpu() -> dict[str, object]:
    """The device and what drives it."""
    device = torch.cuda.get_device_properties(0)
    found = {"gpu": device.name, "gpu memory GiB": round(device.total_memory / 2**30), "cuda": torch.version.cuda}
    return {**found, **versions("triton", "mamba-ssm")}


def usable() -> list[str]:
    found = []
    for name in BACKENDS:
        try:
            found.append(scan_backend(DEVICE, name)[0])
        except UsageError as error:
            print(f"left out: {error}")
    return found


def elapsed_ms(work: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)


def medians(works: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median milliseconds of each, in turn, after three rounds to compile and warm up."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(repeats + 3):
        for name, work in works.items():
            ms = elapsed_ms(work)
            if repeat >= 3:
                times[name].append(ms)
    return {name: median(values) for name, values in times.items()}


def scan_inputs(windows: int, channels: int, dtype: torch.dtype) -> list[Tensor]:
    """u, dt, A, B, C, D, dt_bias as a fresh MERba would hand over, for four directions of every window."""
    g = torch.Generator(DEVICE).manual_seed(0)
    length = WINDOW[0] * WINDOW[1]
    u, dt, b, c = (
        torch.randn(windows, 4, length, k, generator=g, device=DEVICE).to(dtype)
        for k in (channels, channels, STATES, STATES)
    )
    a = -torch.arange(1.0, STATES + 1, device=DEVICE).repeat(channels, 1)
    return [u, dt, a, b, c, torch.ones(channels, device=DEVICE), torch.zeros(channels, device=DEVICE)]


def scan_works(values: list[Tensor], backends: list[str]) -> dict[str, Callable[[list[Tensor]], Tensor]]:
    """Each backend on (windows x directions) sequences, and the merged scan where triton runs."""

    def plain(leaves: list[Tensor], backend: str) -> Tensor:
        u, dt, a, b, c, d, bias = leaves
        u, dt, b, c = (t.flatten(0, 1) for t in (u, dt, b, c))
        return selective_scan(u, dt, a, b, c, d, bias, backend)

    works = {name: lambda leaves, name=name: plain(leaves, name) for name in backends}
    if "triton" in backends:
        from mepipe_model.ops.scan_triton import scan_along

        order = torch.arange(values[0].shape[2], device=DEVICE).repeat(4, 1)
        works["merged"] = lambda leaves: scan_along(*leaves, order)
    return works


def time_scan(batch: int, repeats: int, backends: list[str]) -> Iterator[tuple[str, dict[str, float]]]:
    """Rows (label, milliseconds by backend)."""
    for (stage, (windows, channels)), (name, dtype) in product(STAGES.items(), DTYPES.items()):
        values = scan_inputs(batch * windows, channels, dtype)
        works = scan_works(values, backends)

        def forward(work: Callable[[list[Tensor]], Tensor], values: list[Tensor] = values) -> None:
            with torch.no_grad():
                work(values)

        def both(work: Callable[[list[Tensor]], Tensor], values: list[Tensor] = values) -> None:
            work([v.detach().requires_grad_() for v in values]).sum().backward()

        for label, run in (("forward", forward), ("f + b", both)):
            timed = {key: lambda work=work, run=run: run(work) for key, work in works.items()}
            yield f"stage {stage} {name} {label}", medians(timed, repeats)


def time_mixer(batch: int, repeats: int, backends: list[str]) -> Iterator[tuple[str, dict[str, float]]]:
    for stage, (windows, channels) in STAGES.items():
        x = torch.randn(batch * windows, WINDOW[0] * WINDOW[1], 2 * channels, device=DEVICE)
        mixers = {b: LocalMixer(2 * channels, SCANS, d_state=STATES, backend=b).to(DEVICE) for b in backends}

        def both(mixer: LocalMixer, x: Tensor = x) -> None:
            with torch.autocast(DEVICE, torch.bfloat16):
                y = mixer(x.requires_grad_(), WINDOW)
            y.sum().backward()

        timed = {name: lambda mixer=mixer, both=both: both(mixer) for name, mixer in mixers.items()}
        yield f"stage {stage} mixer f + b", medians(timed, repeats)


def training_step(batch: int, backend: str, model: str = "merba") -> Callable[[], None]:
    """One step of the paper's recipe in mixed precision, on data that lies on the GPU."""
    torch.manual_seed(0)
    net = create_model(model, scan_backend=backend).to(DEVICE).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, weight_decay=0.05, fused=True)
    x, target = torch.randn(batch, 3, 224, 224, device=DEVICE), torch.arange(batch, device=DEVICE) % 3

    def step() -> None:
        with torch.autocast(DEVICE, torch.bfloat16):
            out = net(x).float()
        optimizer.zero_grad(set_to_none=True)
        net.head.loss(out, target, 0.0).backward()
        optimizer.step()

    return step


def profile(step: Callable[[], None], steps: int = 3) -> dict[str, float]:
    """Milliseconds per step on the device: in all, in the scan, in the conv before it, in matrix products."""
    activity = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[activity.CPU, activity.CUDA]) as recorded:
        for _ in range(steps):
            step()
        torch.cuda.synchronize()
    sums = dict.fromkeys(("device", "scan", "conv", "matrix"), 0.0)
    for event in recorded.key_averages():
        ms = event.self_device_time_total / 1e3 / steps
        if event.device_type == torch.autograd.DeviceType.CUDA:  # a kernel
            sums["device"] += ms
            sums["scan"] += ms * bool(SCAN_KERNELS.search(event.key))
            sums["conv"] += ms * bool(CONV_KERNELS.search(event.key))
        else:  # an operator, with the time of the kernels it launched itself
            sums["matrix"] += ms * bool(MATRIX.search(event.key))
    return sums


def time_step(batch: int, repeats: int, backends: list[str]) -> dict[str, dict[str, float]]:
    """Backend -> milliseconds of a step and of its parts; one model on the device at a time."""
    results = {}
    for name in backends:
        torch.cuda.reset_peak_memory_stats()
        step = training_step(batch, name)
        ms = medians({name: step}, repeats)[name]
        results[name] = {"step": ms, **profile(step), "peak_gib": torch.cuda.max_memory_allocated() / 2**30}
        del step
        torch.cuda.empty_cache()
    return results


@contextmanager
def settings(**values: int) -> Iterator[None]:
    """Other launch settings of scan_triton for a while."""
    from mepipe_model.ops import scan_triton

    before = {name: getattr(scan_triton, name) for name in values}
    try:
        for name, value in values.items():
            setattr(scan_triton, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(scan_triton, name, value)


def sweep(batch: int, repeats: int) -> None:
    """Forward + backward of the merged bfloat16 scan, all three stages, one setting changed at a time."""
    print(f"{'setting':24}" + "".join(f"{f'stage {stage} ms':>14}" for stage in STAGES))
    for name, choices in SWEEP.items():
        for value in choices:
            cells = ""
            for windows, channels in STAGES.values():
                values = scan_inputs(batch * windows, channels, torch.bfloat16)
                work = scan_works(values, ["triton"])["merged"]

                def both(work=work, values=values) -> None:
                    work([v.detach().requires_grad_() for v in values]).sum().backward()

                with settings(**{name: value}):
                    cells += f"{medians({'': both}, repeats)['']:14.3f}"
            print(f"{name} = {value:<{20 - len(name)}} {cells}", flush=True)


def table(rows: Iterator[tuple[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Print rows as they come; the factor is over recompute, the one backend every machine has."""
    kept = {}
    for label, ms in rows:
        cells = "".join(f"  {name} {t:8.3f} ms {ms['recompute'] / t:5.1f}x" for name, t in ms.items())
        print(f"{label:24}{cells}", flush=True)
        kept[label] = ms
    return kept


def print_steps(steps: dict[str, dict[str, float]], batch: int) -> None:
    print(f"\ntraining step of merba, batch {batch}, bfloat16 autocast")
    for name, s in steps.items():
        # recompute is made of torch's own kernels, which have no name that tells them apart
        scan = f"scan {s['scan']:7.2f} ms {s['scan'] / s['step']:6.1%}" if s["scan"] else "scan not told apart"
        matrix = f"matrix products {s['matrix']:7.2f} ms, step {s['step'] / s['matrix']:.2f} times that"
        print(f"{name:12}{s['step']:9.2f} ms  {scan}  {matrix}  peak {s['peak_gib']:.1f} GiB")
    if {"triton", "mamba_ssm"} <= steps.keys():
        print(f"triton over mamba_ssm: {steps['mamba_ssm']['step'] / steps['triton']['step']:.2f}x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--sweep", action="store_true", help="time launch settings instead")
    parser.add_argument("--out", type=Path, default=RESULTS / "scan_gpu.json")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("error: there is no CUDA device here; nothing was measured")
    here = {**machine(), **gpu()}
    print(", ".join(f"{k} {v}" for k, v in here.items()))
    if options.sweep:
        sweep(options.batch, options.repeats)
        return
    backends = usable()
    report: dict[str, object] = {"machine": here, "batch": options.batch, "repeats": options.repeats}
    report["scan_ms"] = table(time_scan(options.batch, options.repeats, backends))
    report["mixer_ms"] = table(time_mixer(options.batch, options.repeats, backends))
    steps = time_step(options.batch, options.repeats, backends)
    report["step_ms"] = steps
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    print_steps(steps, options.batch)


if __name__ == "__main__":
    main()
