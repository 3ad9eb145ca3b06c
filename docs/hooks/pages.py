"""Pages of the site that are made and not written: the Python API from the docstrings, the notebook from its cells,
the benchmarks from theirs.

MkDocs calls ``on_files`` and ``on_page_markdown``.  PUBLIC is what a script may rely on; tests/test_docs.py holds
it against the packages' ``__all__``.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

# module -> (what it is for, the names a script may use)
PUBLIC: dict[str, tuple[str, tuple[str, ...]]] = {
    "mepipe": ("The short cuts", ("tvl1", "strain", "get_corpus", "list_corpora")),
    "mepipe.workspace": ("Where results lie", ("Workspace",)),
    "mepipe.settings": (
        "Settings",
        ("PrepareConfig", "FlowConfig", "FacesConfig", "TrainConfig", "ClusterConfig"),
    ),
    "mepipe.configfile": ("The settings file", ("read_settings", "SettingsFile")),
    "mepipe.jobs": ("On a cluster", ("send", "status", "Sent", "Status", "TaskStatus")),
    "mepipe.errors": ("Errors", ("MepipeError", "DataError", "UsageError")),
    "mepipe.datasets": ("Corpora", ("Clip", "Corpus")),
    "mepipe.datasets.composite": ("Composites", ("select",)),
    "mepipe.verify": ("Checking a copy", ("verify_corpus",)),
    "mepipe.prepare": ("Faces", ("prepare_corpus",)),
    "mepipe.facesets": ("Labelled faces", ("prepare_faces", "faces_of_crops", "FaceSummary")),
    "mepipe.apex": ("Apex", ("spot", "look", "curve", "spotter")),
    "mepipe.apex.evaluate": ("Apex, compared", ("evaluate_corpus",)),
    "mepipe.flow": ("Flow", ("TVL1Params", "Engine", "get_engine", "resolve_engine")),
    "mepipe.flow.run": ("Flow of a workspace", ("flow_corpora",)),
    "mepipe.shards": (
        "Shards",
        ("open_shards", "list_shards", "verify_shards", "write_shard", "shard_hash", "Shards", "Sample", "Content",
         "Faces", "Finding", "ShardWriter"),
    ),
    "mepipe.synth": ("Made-up corpora", ("make_corpus", "synthetic_clip", "SynthSummary", "SyntheticClip")),
    "mepipe.report": (
        "Pages and pictures",
        ("report_run", "report_corpus", "report_pair", "report_table", "flow_picture", "colour_picture",
         "arrows_picture", "magnitude_picture", "flow_legend", "confusion_picture", "curves_picture",
         "overview_picture", "prediction_picture", "FlowClip"),
    ),
    "mepipe.spot": (
        "Spotting",
        ("spot", "open_source", "read_truth", "score", "SpotConfig", "Spotting", "Spotted", "Score", "Truth"),
    ),
    "mepipe_model": ("Models", ("create_model", "list_models")),
    "mepipe_model.models": ("Models of your own", ("register_model", "model_info", "ModelInfo")),
    "mepipe_model.ops": ("The selective scan", ("selective_scan", "scan_backend", "parse_scans", "scan_order",
                                                "scan_inverse")),
    "mepipe_model.data": ("Data", ("FlowDataset",)),
    "mepipe_model.facedata": ("Data of faces", ("FaceDataset",)),
    "mepipe_model.metrics": ("Metrics", ("uf1_uar", "confusion_matrix", "Uf1Uar")),
    "mepipe_model.train": ("Training", ("train_run", "Outcome", "FoldsFailed")),
    "mepipe_model.comparing": ("Several models", ("compare_models",)),
    "mepipe_model.seeds": ("Several seeds", ("train_seeds", "seed_spread")),
    "mepipe_model.evaluate": ("Judging", ("evaluate_runs", "compare_runs")),
    "mepipe_model.predict": ("Predicting", ("predict_clip", "predict_many")),
    "mepipe_model.saliency": ("Where a model looks", ("explain_run",)),
    "mepipe_model.export": ("Exporting", ("export_run", "Exported")),
    "mepipe_model.reproduce": ("The paper's tables", ("reproduce",)),
    "mepipe_model.loggers": ("Loggers", ("RunLogger", "register_logger", "list_loggers")),
}  # fmt: skip

# of __all__, what is a constant or a table that registers: named here so that nothing is left out by oversight
NOT_CALLED = {
    "__version__", "CORPORA", "ENGINES", "FLOW_SHAPE", "FORMAT", "MAX_SAMPLES", "PX", "PX_STRAIN", "VERSION", "WRITERS",
    "SCAN_BACKENDS", "TABLES", "Reproduction", "ShardFile", "DEFAULT", "METHOD_VERSION", "SPOTTERS", "Curve", "Spotter",
    "make_plan", "train_config", "FORMATS",
}  # fmt: skip

# pages that lie elsewhere in the repository -> what they are called here
FROM_OUTSIDE = {
    "benchmarks/README.md": "benchmarks.md",
    "SECURITY.md": "security.md",
    "CONTRIBUTING.md": "contributing.md",
}


def on_files(files: Files, config: Any) -> Files:
    """Add a page for each public name, their index, and a page for each notebook."""
    made = {"api/index.md": api_index()}
    for module, (_, names) in PUBLIC.items():
        made |= {f"api/{module}.{name}.md": f"::: {module}.{name}\n" for name in names}
    made |= {copy: (Path(config.docs_dir).parent / path).read_text("utf-8") for path, copy in FROM_OUTSIDE.items()}
    for notebook in sorted(Path(config.docs_dir).glob("notebooks/*.ipynb")):
        made[f"notebooks/{notebook.stem}.md"] = notebook_page(notebook)
    for path, text in made.items():
        # the menu would be longer than the pages: those of the API are reached from their index
        level = InclusionLevel.NOT_IN_NAV if "::: " in text else InclusionLevel.INCLUDED
        files.append(File.generated(config, path, content=text, inclusion=level))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links that work in the repository lead to this site's copy; of files that have none the name stays."""
    uri = page.file.src_uri
    if uri in FROM_OUTSIDE.values():
        markdown = markdown.replace("](docs/", "](")
    if "/" in uri:
        return markdown
    for path, copy in FROM_OUTSIDE.items():
        markdown = re.sub(rf"\]\((\.\./)?{re.escape(path)}", f"]({copy}", markdown)
    return re.sub(r"\[([^\]]+)\]\(\.\./[^)]*\)", r"\1", markdown)


def api_index() -> str:
    lines = ["# Python API", "", "What a script may rely on. Other names may change without notice.", ""]
    for module, (title, names) in PUBLIC.items():
        links = ", ".join(f"[`{name}`]({module}.{name}.md)" for name in names)
        lines += [f"## {title}: `{module}`", "", links, ""]
    return "\n".join(lines) + SPAWN


SPAWN = """
## In a script

`prepare_corpus`, `evaluate_corpus` and `train_run` start worker processes that import your script again. Keep what
starts them below the line that tells a script from an import, and do not feed the script to Python through a pipe:

```python
from pathlib import Path

from mepipe.datasets import get_corpus
from mepipe.prepare import prepare_corpus
from mepipe.workspace import Workspace

if __name__ == "__main__":
    prepare_corpus(Workspace("mepipe-work"), get_corpus("casme2"), Path("raw"))
```

A notebook, and `python -c`, need no such line.
"""


def notebook_page(path: Path) -> str:
    """The cells as Markdown, with a link to the file."""
    cells = json.loads(path.read_text("utf-8"))["cells"]
    parts = []
    for cell in cells:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    parts.insert(1, f"This page as a notebook: [{path.name}]({path.name})")
    return "\n\n".join(parts) + "\n"
