"""``mepipe config show`` and ``init``: what would run and where each value came from; a file with all options."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from typing import Any

from mepipe.configfile import CONFIGS, SLURM, SettingsFile, key_of, option_fields
from mepipe.settings import FacesConfig, FlowConfig, PrepareConfig, TrainConfig, cores

DEFAULT = "default"


@dataclass(frozen=True)
class Shown:
    """A value that would be used, and where it came from."""

    value: Any
    source: str


def effective(command: str, values: dict[str, Any], sources: dict[str, str]) -> dict[str, Shown]:
    """What ``command`` would use: key -> Shown, for all its options.

    Parameters
    ----------
    command
        ``prepare``, ``flow``, ``faces`` or ``train``.
    values
        Field -> value, from the command line, the file or the default.
    sources
        Field -> where that came from.

    Raises
    ------
    UsageError
        The settings do not go together.
    """
    config = CONFIGS[command](**{f.name: values[f.name] for f in dataclasses.fields(CONFIGS[command])})
    filled, whence = _FILL[command](config)
    out = {}
    for key, f in option_fields(command).items():
        given, source = values[f.name], sources[f.name]
        value = filled.get(f.name, given)
        if given in (None, "auto") and value != given:
            source = whence.get(f.name, source)
        elif value != given:
            source = f"{source}; {given} does not fit into {filled['epochs']} epochs"
        out[key] = Shown(list(value) if isinstance(value, tuple) else value, source)
    return out


def _prepare(config: PrepareConfig) -> tuple[dict[str, Any], dict[str, str]]:
    from mepipe.faces.landmarks import ENVIRONMENT, find_predictor

    found = find_predictor(config.landmarks)
    where = f"${ENVIRONMENT}" if os.environ.get(ENVIRONMENT) else "package face_recognition_models"
    filled = {"jobs": config.jobs or cores(), "landmarks": config.landmarks or (found and str(found))}
    return filled, {"jobs": "cores of this machine", "landmarks": where}


def _flow(config: FlowConfig) -> tuple[dict[str, Any], dict[str, str]]:
    from mepipe.flow.run import parameters

    filled = parameters(config).as_dict()
    whence = dict.fromkeys(filled, f"preset {config.preset}")
    return {**filled, "jobs": config.jobs or cores()}, {**whence, "jobs": "cores of this machine"}


def _train(config: TrainConfig) -> tuple[dict[str, Any], dict[str, str]]:
    from mepipe_model.recipes import resolved

    filled, whole = resolved(config).as_dict(), resolved(dataclasses.replace(config, epochs=None)).as_dict()
    recipe = f"recipe of {config.model}"
    shorter = f"{recipe}: {{}}, which does not fit into {filled['epochs']} epochs"
    cut = {n: shorter.format(whole[n]) for n in ("warmup", "cooldown") if filled[n] != whole[n]}
    usual = {"protocol": config.protocol or "loso", "classes": config.classes or 3}
    by_data = dict.fromkeys(usual, "default; of a corpus of faces its own")
    return {**filled, **usual}, {**dict.fromkeys(filled, recipe), **by_data, **cut}


def _faces(config: FacesConfig) -> tuple[dict[str, Any], dict[str, str]]:
    return {"jobs": config.jobs or cores()}, {"jobs": "cores of this machine"}


_FILL: dict[str, Any] = {"prepare": _prepare, "flow": _flow, "faces": _faces, "train": _train}


def show_lines(shown: dict[str, dict[str, Shown]], file: SettingsFile | None) -> list[str]:
    """The settings as text, one line for each, None as "-"."""
    lines = [f"settings file: {file.path}" if file else "no settings file"]
    for command, settings in shown.items():
        lines += ["", f"mepipe {command}"]
        wide = max(len(_written(s.value)) for s in settings.values())
        width = min(wide, 40)  # a path must not push all sources off the screen
        lines += [f"  {key:14} {_written(s.value):{width}}  {s.source}" for key, s in settings.items()]
    return lines


def show_dict(shown: dict[str, dict[str, Shown]], file: SettingsFile | None) -> dict[str, Any]:
    """The settings for scripts."""
    tables = {c: {key: dataclasses.asdict(s) for key, s in settings.items()} for c, settings in shown.items()}
    return {"file": str(file.path) if file else None, "settings": tables}


def _written(value: Any) -> str:
    if value is None or value == []:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


# --- init ------------------------------------------------------------------------------------------

HEAD = """\
# Settings of mepipe: the options of prepare, flow, faces and train, and in [slurm] what prepare, flow and train ask
# Slurm for. The command line wins over this file.
# All lines are comments that show the defaults: remove the # of those you change.
# mepipe config show tells what would run, and where each value came from.
"""


def template() -> str:
    """A settings file with every option as a comment: its help, its values, its default."""
    parts = [HEAD]
    shared = option_fields(SLURM)
    for command in (*CONFIGS, SLURM):
        parts.append(f"\n[{command}]")
        for key, f in option_fields(command).items():
            if command != SLURM and key in shared:
                continue
            parts += [f"# {line}" for line in _about(f)]
            parts.append(f"#{key} = {_default(f)}")
    return "\n".join(parts) + "\n"


def _about(f: dataclasses.Field[Any]) -> list[str]:
    meta = f.metadata
    lines = [meta["help"]]
    if meta["choices"]:
        lines.append("one of: " + ", ".join(json.dumps(c) for c in meta["choices"]))
    return lines


def _default(f: dataclasses.Field[Any]) -> str:
    """The default as TOML; for an option without one, in angle brackets what to write."""
    if f.name == "options":
        return "{}"
    if f.default is not None:
        value = list(f.default) if isinstance(f.default, tuple) else f.default
        return json.dumps(value)
    kind = str(f.type).removesuffix(" | None")
    words = {"int": "whole number", "float": "number", "str": '"text"', "bool": "true or false"}
    return f"<{words[kind]}>"


__all__ = ["DEFAULT", "Shown", "effective", "key_of", "show_dict", "show_lines", "template"]
