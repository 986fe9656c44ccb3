"""One test program on this hypervisor: build it, boot its domains, run them, judge.

Deterministic: the same program gives the same result. So a failure is simply run a second time,
with a trace and the walk of every page fault, to collect evidence; programs that pass pay nothing.

How it fails: never by raising for what a program does. What cannot be built, a wrong manifest, and
a bug of the hypervisor (with its traceback) are ERROR.
"""

import json
import re
import shlex
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from emu.errors import CowbirdError
from guests.runner.build import build, read_file
from guests.runner.collect import TestProgram
from guests.runner.machine import Plan, Run
from guests.runner.manifest import DEFAULT_MACHINE, WIDTHS, DomainSpec, Manifest
from guests.runner.result import COWBIRD, DomainResult, Result
from guests.runner.verdict import Verdict, worst
from hypervisor.image import KernelImage, parse_image
from hypervisor.settings import Settings
from hypervisor.trace import Tracer

_ROOM: Final = 16 << 20
_MAX_TRACE: Final = 64 << 20
"""Characters of a trace that are written."""


def run_program(
    program: TestProgram,
    limit: int | None = None,
    artifacts: Path | None = None,
    environment: str = "pv64",
) -> Result:
    """Run one program in ``environment``, ``pv64`` or ``pv32``.

    ``limit``: instructions in place of the manifest's. ``artifacts``: the folder below which the
    evidence of a failure is left; None leaves none.
    """
    start = time.perf_counter()
    manifest = program.manifest
    result = Result(
        program.id,
        str(program.path),
        program.group,
        COWBIRD,
        Verdict.ERROR,
        manifest.expected,
        description=manifest.description,
        repeat=repeat_command(program, COWBIRD, limit, environment=environment),
        environment=environment,
    )
    if program.error:
        return replace(result, reason=program.error)
    if environment not in manifest.environments:
        reason = f"its environments do not name {environment}"
        return replace(result, verdict=Verdict.SKIP, reason=reason)
    try:
        images = load_images(program, WIDTHS[environment])
        result = _attempt(program, images, limit or manifest.limit, result, None)
        if not result.good and artifacts is not None:
            result = _evidence(program, images, limit or manifest.limit, result, artifacts)
    except CowbirdError as error:
        result = replace(result, reason=str(error))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is a bug of ours
        text = f"a bug of the hypervisor: {type(error).__name__}: {error}"
        where = DomainResult("hypervisor", Verdict.ERROR, report=traceback.format_exc())
        result = replace(result, reason=text, domains=(where,))
    return replace(result, seconds=time.perf_counter() - start)


def repeat_command(
    program: TestProgram,
    where: str,
    limit: int | None,
    timeout: float | None = None,
    environment: str = "pv64",
) -> str:
    """The command that runs this program alone, in the same way."""
    words = ["cowbird", "test", str(program.path)]
    if where != COWBIRD:
        words += ["--on", where]
    elif limit is not None:
        words += ["--limit", str(limit)]
    if environment == "pv32":
        words += ["--env", environment]
    if timeout is not None:
        words += ["--timeout", f"{timeout:g}"]
    return shlex.join(words)


# -- building -----------------------------------------------------------------------------------


Images = dict[tuple[str, int], tuple[KernelImage, bytes]]
"""Parsed image and file of each kernel, by its name in the manifest ("": the program) and width."""


def kernel_of(spec: DomainSpec, width: int) -> tuple[str, int]:
    """Which kernel a domain runs, if ``width`` is that of the environment."""
    return spec.kernel or "", spec.width or width


def load_images(program: TestProgram, width: int = 64) -> Images:
    """The kernels of all domains of a program, in an environment of ``width`` bits.

    Raises:
        CowbirdError: one cannot be made or booted.
    """
    images: Images = {}
    for spec in program.manifest.domains:
        key = kernel, bits = kernel_of(spec, width)
        if key not in images:
            path = program.path if not kernel else program.path.parent / kernel
            data = build(path, bits)
            images[key] = parse_image(data, str(path)), data
    return images


def load_module(program: TestProgram, spec: DomainSpec) -> bytes | None:
    """The boot module of one domain. Raises BuildError."""
    name = spec.module if spec.module is not None else program.manifest.module
    return None if name is None else read_file(program.path.parent / name)


def settings_of(manifest: Manifest, plans: list[Plan]) -> Settings:
    """The machine that a program wants; never smaller than its domains need."""
    memory = manifest.machine_memory
    if memory == DEFAULT_MACHINE:
        memory = max(memory, sum(plan.size for plan in plans) + _ROOM)
    return Settings(machine_memory=memory, **manifest.settings)


def _make(program: TestProgram, images: Images, width: int) -> Run:
    manifest = program.manifest
    several = len(manifest.domains) > 1
    plans = [
        Plan(
            f"{program.name}-{spec.name}" if several else program.name,
            images[kernel_of(spec, width)][0],
            spec.memory or manifest.memory,
            manifest.cmdline if spec.cmdline is None else spec.cmdline,
            load_module(program, spec),
        )
        for spec in manifest.domains
    ]
    return Run(plans, settings_of(manifest, plans))


# -- running ------------------------------------------------------------------------------------


def _attempt(
    program: TestProgram,
    images: Images,
    limit: int,
    result: Result,
    trace: Any,
) -> Result:
    run = _make(program, images, WIDTHS[result.environment])
    if trace is not None:
        Tracer(run.hv, trace, frames=True)
        run.watch_faults()
    run.run(limit)
    domains = []
    for number, spec in enumerate(program.manifest.domains, 1):
        judged = run.judge(number)
        parser = run.parser(number)
        domain = run.domain(number)
        domains.append(
            DomainResult(
                spec.name,
                judged.verdict,
                judged.reason,
                run.ending(number)[0].value,
                tuple(parser.checks),
                run.console(number),
                run.dropped(number),
                run.report(number),
                run.last_faults.get(domain.id, ""),
            )
        )
    verdict = worst(domain.verdict for domain in domains)
    decisive = next(domain for domain in domains if domain.verdict is verdict)
    reason = decisive.reason
    if reason and len(domains) > 1:
        reason = f"domain {decisive.name}: {reason}"
    violations = run.audit()
    if violations:
        verdict, reason = Verdict.ERROR, f"audit: {violations[0]}"
        if len(violations) > 1:
            reason += f" (and {len(violations) - 1} more)"
    return replace(
        result,
        verdict=verdict,
        reason=reason,
        domains=tuple(domains),
        instructions=run.hv.machine.position,
    )


# -- evidence -----------------------------------------------------------------------------------


def folder_of(artifacts: Path, result: Result) -> Path:
    """Where the evidence of a result belongs."""
    parts = [re.sub(r"[^\w.~+-]", "_", part) for part in result.id.split("/")]
    if result.environment == "pv32":
        parts.append(result.environment)
    return artifacts.joinpath(*(part.lstrip(".") or "_" for part in parts))


def _evidence(
    program: TestProgram,
    images: Images,
    limit: int,
    result: Result,
    artifacts: Path,
) -> Result:
    """Run a failure again, traced, and leave what a person needs in a folder."""
    folder = folder_of(artifacts, result)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "trace.jsonl").open("w", encoding="utf-8", newline="\n") as stream:
            room = _MAX_TRACE

            def write(line: str) -> None:
                nonlocal room
                room -= len(line)
                if room >= 0:
                    stream.write(line)

            again = _attempt(program, images, limit, result, write)
        kernels = {}
        for (kernel, width), (_, data) in images.items():
            stem = Path(kernel or program.name).stem
            kernels[f"{stem}-{width}" if stem in kernels else stem] = data
        save_evidence(folder, again, kernels)
    except OSError as error:
        reason = f"{result.reason} (no evidence: {error.filename or folder}: {error.strerror})"
        return replace(result, reason=reason)
    return replace(again, artifacts=str(folder))


def save_evidence(folder: Path, result: Result, images: dict[str, bytes]) -> None:
    """Consoles, crash reports, walks, images and the command. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    for domain in result.domains:
        (folder / f"console-{domain.name}.txt").write_text(domain.console, encoding="utf-8")
        report = "\n\n".join(filter(None, (domain.report, domain.last_fault)))
        if report:
            (folder / f"crash-{domain.name}.txt").write_text(f"{report}\n", encoding="utf-8")
    for name, data in images.items():
        (folder / f"{Path(name).stem}.elf").write_bytes(data)
    about = {
        "id": result.id,
        "where": result.where,
        "environment": result.environment,
        "verdict": result.verdict.value,
        "expected": result.expected.value,
        "reason": result.reason,
        "repeat": result.repeat,
    }
    (folder / "result.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
