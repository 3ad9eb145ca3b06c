"""Where a model looks: attributions that add up, regions that cover the face, and the truth of made-up motion."""

from __future__ import annotations

import json
import re

import cv2
import numpy as np
import pytest
import torch
from test_report import make_run, text_of
from tinyflow import put_flow, quick
from torch import nn

from mepipe.errors import DataError, UsageError
from mepipe.faces.align import SIZE, matrix_from_landmarks, mean_face
from mepipe.report import report_run
from mepipe.shards import Sample
from mepipe.synth import synthetic_clip
from mepipe.workspace import Workspace, write_json
from mepipe_model.data import Scale
from mepipe_model.models.base import FlowModel
from mepipe_model.models.heads import LinearHead
from mepipe_model.saliency import (
    NAMES,
    REGIONS,
    attributions,
    by_region,
    explain_clip,
    explain_run,
    landmarks_of,
    occluded,
    region_map,
)
from mepipe_model.train import train_run


class MouthModel(FlowModel):
    """Looks at the mean of tanh(u) in the mouth of the mean face, and nowhere else."""

    def __init__(self) -> None:
        super().__init__({"name": "mouth"})
        self.head = LinearHead(1, 2)
        with torch.no_grad():
            self.head.linear.weight.copy_(torch.tensor([[2.0], [-2.0]]))
            self.head.linear.bias.zero_()
        self.register_buffer("mouth", torch.from_numpy(region_map() == NAMES.index("mouth")))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(x[:, 0])[:, self.mouth].mean(1, keepdim=True))


def flow_of(seed: int = 0, strength: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    u, v = (cv2.GaussianBlur(rng.normal(size=(SIZE, SIZE)), (0, 0), 12) * 20 * strength + 0.2 for _ in range(2))
    return np.stack([u, v, np.hypot(u, v)]).astype(np.float32)


def log_p(model: FlowModel, flow: np.ndarray, target: int) -> float:
    with torch.no_grad():
        return float(model.head.probabilities(model(torch.from_numpy(flow)[None]))[0, target].log())


# --- regions -----------------------------------------------------------------------------------------


def test_regions_cover_the_face_once_and_contain_the_landmarks_that_name_them():
    regions = region_map()
    points = np.rint(mean_face()).astype(int)
    inside = {"left brow": (19,), "right brow": (24,), "left eye": (37, 40), "right eye": (43, 46), "nose": (30, 33),
              "mouth": (48, 51, 54, 57)}  # fmt: skip
    for name, indices in inside.items():
        assert {NAMES[regions[points[i][1], points[i][0]]] for i in indices} == {name}
    sizes = [(regions == n).sum() for n in range(len(NAMES))]
    assert sum(sizes) == (regions >= 0).sum()
    assert min(sizes) > 0.02 * sum(sizes)
    assert regions[5, 5] == -1


def test_regions_are_mirror_images_of_each_other():
    regions = region_map()
    for left in (n for n in NAMES if n.startswith("left")):
        right = NAMES.index(left.replace("left", "right"))
        a, b = (regions == NAMES.index(left)), (regions == right)
        assert (a == b[:, ::-1]).mean() > 0.985


def test_regions_follow_a_clips_own_landmarks():
    moved = region_map(mean_face() + np.array([12.0, 0.0]))
    assert (moved[:, 12:] == region_map()[:, :-12]).mean() > 0.99


def test_landmarks_of_a_clip_are_read_in_crop_pixels(tmp_path):
    write_json(tmp_path / "clip.json", {"landmarks": mean_face().tolist(), "matrix": [[2, 0, 1], [0, 2, 3]]})
    assert np.allclose(landmarks_of(tmp_path), 2 * mean_face() + [1, 3])
    write_json(tmp_path / "clip.json", {"landmarks": None, "matrix": [[2, 0, 1], [0, 2, 3]]})
    assert landmarks_of(tmp_path) is None


# --- attributions ------------------------------------------------------------------------------------


def test_integrated_gradients_add_up_to_the_change_of_log_p():
    model, flow = MouthModel().eval(), flow_of()
    values, target = attributions(model, Scale.none(), flow, steps=32)
    change = log_p(model, flow, target) - log_p(model, 0 * flow, target)
    assert abs(change) > 0.05
    assert values.sum() == pytest.approx(change, rel=0.01)


def test_attributions_lie_where_the_model_looks_and_nowhere_else():
    model = MouthModel().eval()
    for method in ("integrated", "gradient"):
        explained = explain_clip(model, Scale.none(), flow_of(1), region_map(), method)
        for found in (explained.regions, np.abs(explained.occlusion)):
            assert NAMES[int(found.argmax())] == "mouth"
            assert np.delete(found, NAMES.index("mouth")).max() < 1e-9


def test_occlusion_is_the_drop_of_log_p_with_the_region_still():
    model, flow, regions = MouthModel().eval(), flow_of(2), region_map()
    drops = occluded(model, Scale.none(), flow, regions, target=0)
    stilled = flow * (regions != NAMES.index("mouth"))
    assert drops[NAMES.index("mouth")] == pytest.approx(log_p(model, flow, 0) - log_p(model, stilled, 0), abs=1e-6)


def test_region_scores_are_means_so_that_large_regions_have_no_advantage():
    assert by_region(np.ones((SIZE, SIZE)), region_map()) == pytest.approx(np.ones(len(REGIONS)))


def test_a_model_without_gradient_and_an_unknown_method_are_usage_errors():
    class Steps(MouthModel):
        def forward(self, x):
            return super().forward(x).detach()

    with pytest.raises(UsageError, match="passes no gradient"):
        attributions(Steps().eval(), Scale.none(), flow_of())
    with pytest.raises(UsageError, match="valid: integrated, gradient"):
        attributions(MouthModel(), Scale.none(), flow_of(), method="magic")


def test_maps_that_do_not_move_at_all_give_numbers():
    model = nn.Module.eval(MouthModel())
    values, _ = attributions(model, Scale.none(), np.zeros((3, SIZE, SIZE), np.float32))
    assert np.isfinite(values).all()
    assert not values.any()


# --- the truth of the made-up corpus -----------------------------------------------------------------

SUBJECTS, CLIPS = 6, 6
NOISE = 0.05  # px, about what TV-L1 finds where nothing moves


def true_motion(made, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Onset to apex, (2, 224, 224) px of the crop: all that moves, and the expression without the head's drift."""
    all_of_it = made.displacement(made.apex)
    height, width = all_of_it.shape[:2]
    alone = made._expression.bumps.on_grid(*(np.arange(n, dtype=np.float32) for n in (width, height)))
    return tuple((cv2.warpAffine(d, matrix, (SIZE, SIZE)) @ matrix[:, :2].T).transpose(2, 0, 1)
                 for d in (all_of_it, alone))  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small model trained on the true motion of made-up clips with noise, and which regions truly moved."""
    ws = Workspace(tmp_path_factory.mktemp("saliency"))
    rng, rows, flows, moved = np.random.default_rng(0), [], [], {}
    for i in range(SUBJECTS):
        for j in range(CLIPS):
            made = synthetic_clip("casme2", 3, i, j)
            p, matrix = made.plan, matrix_from_landmarks(made.landmarks)
            if not p.label3:
                continue
            motion, expression = true_motion(made, matrix)
            noise = np.stack([cv2.GaussianBlur(rng.normal(size=(SIZE, SIZE)), (0, 0), 3) for _ in range(2)])
            u, v = motion + noise * NOISE / noise.std()
            rows.append(Sample("casme2", p.subject, p.name, label3=p.label3, onset=p.onset, apex=p.apex))
            flows.append(np.stack([u, v, np.hypot(u, v)]))
            points = made.landmarks @ matrix[:, :2].T + matrix[:, 2]
            moved[p.subject, p.name] = by_region(np.hypot(*expression), region_map(points))
            facts = {"landmarks": made.landmarks.tolist(), "matrix": matrix.tolist(), "record": {"box": None}}
            write_json(ws.prepared("casme2") / p.subject / p.name / "clip.json", facts)
    ws.flow.mkdir(parents=True)
    put_flow(ws, rows, np.array(flows, np.float32))
    outcome = train_run(ws, quick(protocol="kfold", k=2, data=("casme2",), epochs=30))
    return ws, outcome.folder, moved


def test_the_highest_scoring_region_is_a_moved_one_for_at_least_80_percent_of_clips(trained):
    """Moved: a region whose mean true motion is at least half that of the region that moves most."""
    ws, run, moved = trained
    found = explain_run(ws, run, method="gradient")
    assert len(found.clips) >= 30
    right = [
        moved[subject, clip][scores.argmax()] >= 0.5 * moved[subject, clip].max()
        for (_, subject, clip), scores in zip(found.clips, found.regions, strict=True)
    ]
    by_chance = np.mean([(m >= 0.5 * m.max()).mean() for m in moved.values()])
    print(f"{np.mean(right):.2f} of {len(right)} clips; a region taken blindly: {by_chance:.2f}")
    assert by_chance < 0.4, "the check would say nothing if most regions moved in every clip"
    assert np.mean(right) >= 0.8


def test_the_runs_page_shows_a_face_and_shares_per_class_answered(trained):
    ws, run, _ = trained
    found = explain_run(ws, run, method="gradient", limit=12)
    assert len(found.clips) == 12
    text = text_of(report_run(ws, run).read_text("utf-8"))
    assert "Where the model looks 12 clips" in text
    for k, name in enumerate(found.classes):
        if (found.target == k).any():
            assert f"answered {name} , {(found.target == k).sum()} clips" in text
    for name in NAMES:
        assert re.search(rf"{name}( \d+)+ ", text)


def test_a_run_without_saliency_has_no_such_section_and_a_damaged_file_is_named(tmp_path):
    run = make_run(tmp_path, subjects=2, crops=False, flow=False)
    assert "Where the model looks" not in run.page()
    (run.folder / "saliency.npz").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"saliency\.npz"):
        run.page()


def test_models_that_read_frames_are_refused(tmp_path):
    run = make_run(tmp_path, subjects=2, crops=False, flow=False)
    path = run.folder / "config.json"
    config = json.loads(path.read_text())
    config["settings"]["model"] = "lbp_top"
    write_json(path, config)
    with pytest.raises(UsageError, match="reads frames"):
        explain_run(run.ws, run.name)
