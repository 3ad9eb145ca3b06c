"""What the fuzz harness feeds to which parser: every reader of bytes that a stranger may have made."""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from pathlib import Path

import cv2
import numpy as np
import openpyxl
import tiny

from mepipe import get_corpus
from mepipe.cliptable import COLUMNS, read_records
from mepipe.datasets.affectnet import COLUMNS as AFFECTNET
from mepipe.datasets.affectnet import annotated
from mepipe.datasets.ferplus import CLASSES as FERPLUS
from mepipe.datasets.ferplus import OTHERS, pixel_rows
from mepipe.errors import DataError
from mepipe.faces.detect import GivenBoxes
from mepipe.facesets.run import read_table, to_csv
from mepipe.facesets.work import FaceRecord
from mepipe.frames import open_frames, read_image
from mepipe.glance import glance, image_size
from mepipe.media import PixelText
from mepipe.shards import PX_STRAIN, Faces, Sample, ShardFile, ShardWriter, verify_shards, write_shard
from mepipe.shards.exporting import flo_bytes, read_flo
from mepipe.shards.importing import import_npz
from mepipe.workspace import hash_file
from security.fuzzing import Target

ROWS = [("01", "EP02_01f", None, 46, 59, 86, None, "4", "happiness"),
        ("17", "EP13_04", None, 5, 60, 90, None, "4+7", "others")]  # fmt: skip
FRAMES_READ = 12  # of a video that may say it has a million


# --- annotation tables -------------------------------------------------------------------------------


def csv_sheets(folder: Path) -> list[bytes]:
    lines = [",".join("" if c is None else str(c) for c in row) for row in (tiny.CASME2, *ROWS)]
    text = "\n".join(lines) + "\n"
    return [text.encode(), text.replace(",", ";").encode("utf-16"), ("note\n" * 13 + text).encode("utf-8-sig")]


def xlsx_sheets(folder: Path) -> list[bytes]:
    book, out, stored = openpyxl.Workbook(), io.BytesIO(), io.BytesIO()
    for row in (tiny.CASME2, *ROWS):
        book.active.append(row)
    book.save(out)
    # not packed, so that mutations reach the XML and not only the zip
    with zipfile.ZipFile(out) as packed, zipfile.ZipFile(stored, "w") as plain:
        for name in packed.namelist():
            plain.writestr(name, packed.read(name))
    return [out.getvalue(), stored.getvalue(), stored.getvalue()]


def read_annotation(path: Path) -> object:
    raw = path.parent / "raw"
    raw.mkdir(exist_ok=True)
    return get_corpus("casme2").clips(raw, sheet=path)


# --- frames ------------------------------------------------------------------------------------------


def picture(side: int = 48) -> np.ndarray:
    return cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (side, side + 16, 3), np.uint8), (0, 0), 2)


def images(suffix: str, *options: list[int]):
    def made(folder: Path) -> list[bytes]:
        whole = [cv2.imencode(suffix, picture(), how)[1].tobytes() for how in (options or ([],))]
        return [*whole, cv2.imencode(suffix, picture()[..., 0])[1].tobytes()]

    return made


def read_frame(path: Path) -> object:
    glance(path)
    image_size(path)
    return read_image(path)


def videos(suffix: str, code: str):
    def made(folder: Path) -> list[bytes]:
        path = folder / f"sound{suffix}"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), 100, (64, 48))
        for n in range(6):
            writer.write(np.roll(picture(), n, 1))
        writer.release()
        return [path.read_bytes()]

    return made


def read_video(path: Path) -> object:
    frames = open_frames(path)
    return [frames.read(n) for n in frames.numbers[:FRAMES_READ]]


# --- shards, arrays ----------------------------------------------------------------------------------


def shards(folder: Path) -> list[bytes]:
    rows = [Sample("casme2", "sub01", f"EP0{n}", "happiness", "positive", onset=1, apex=5, offset=9) for n in range(3)]
    flows = [np.zeros((3, 224, 224), np.float32) for _ in rows]
    strain = [np.zeros((4, 224, 224), np.float32) for _ in rows]
    about = {"engine": "opencv", "parameters": {"pad": 16}, "versions": {"mepipe": "1"}, "compression": "gzip"}
    out = []
    for name, given, more in (
        ("a", flows, {}),
        ("b", strain, {"content": PX_STRAIN}),
        ("c", flows, {"dtype": "float16"}),
    ):
        write_shard(folder / f"{name}-00000.h5", rows, given, **about, **more)
        out.append((folder / f"{name}-00000.h5").read_bytes())
    return out


def read_shard(path: Path) -> object:
    shard = ShardFile(path)
    try:
        return [shard.flow(i) for i in range(len(shard))], [str(f) for f in verify_shards(path)]
    finally:
        shard.close()


def archives(folder: Path) -> list[bytes]:
    out = []
    for save in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        save(file, corpus=["casme2"] * 2, subject=["sub01", "sub02"], clip=["a", "b"], label3=["0", "1"],
             flow=np.zeros((2, 3, 28, 28), np.uint8))  # fmt: skip
        out.append(file.getvalue())
    return out


def read_archive(path: Path) -> object:
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        return import_npz(Path(folder), path)


def face_shards(folder: Path) -> list[bytes]:
    out = []
    for name, content in (("d", Faces(None, (("joy", "calm"),), True)), ("e", Faces(3))):
        path = folder / f"{name}-00000.h5"
        about = {"engine": "faces", "content": content, "parameters": {"crop": "as-is"}, "versions": {}}
        with ShardWriter(path, **about, compression="gzip") as shard:
            for n in range(2):
                votes = {"votes": np.array([0.5, 0.5])} if content.votes else {}
                crops = np.zeros(content.shape, np.uint8)
                shard.append(Sample("a", "", f"c{n}", "joy"), crops, landmarks=np.zeros((68, 2)), **votes)
        out.append(path.read_bytes())
    return out


def read_face_shard(path: Path) -> object:
    shard = ShardFile(path)
    try:
        values = [(shard.stored(i), shard.beside("landmarks", i)) for i in range(len(shard))]
        return values, [str(f) for f in verify_shards(path)]
    finally:
        shard.close()


# --- lists of labelled faces ---------------------------------------------------------------------------


def face_lists(folder: Path) -> list[bytes]:
    return [b"train_00001.jpg 5\ntest_00002.jpg 7\n" * 3, b"path label\nAction/Happy/0001 Happy\n" * 2]


def face_tables(folder: Path) -> list[bytes]:
    box = ",".join(AFFECTNET).encode() + b"\n1/a.jpg,1,1,9,9,1;2,3\n"
    votes = ",".join(("Usage,Image name", *FERPLUS, *OTHERS)) + "\nTraining,a.png,0,10,0,0,0,0,0,0,0,0\n"
    ratings = b"Participant_id,Trial,Valence,Arousal\n1,1,6.5,2\n2,3,1,9\n"
    return [box, votes.encode(), ratings, b"video_name,label\n00001,3\n2,7\n", b"file,class,subject\na/b.jpg,joy,p1\n"]


def read_face_list(path: Path) -> object:
    """As the list of the corpus that knows a word of it."""
    data = path.read_bytes()
    corpus, name = next((found for word, found in FACE_LISTS.items() if word in data), ("rafdb", RAFDB))
    with tempfile.TemporaryDirectory(dir=path.parent) as raw:
        for n in range(1, 6) if "{n}" in name else (0,):
            place = Path(raw, name.format(n=n))
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(data)
        Path(raw, "fer2013.csv").write_bytes(b"emotion,pixels,Usage\n0,1 2,Training\n")
        Path(raw, "train_All.csv").write_bytes(data)
        return [(c.id, c.emotion, c.split, c.problem) for c in get_corpus(corpus).clips(raw)]


RAFDB = "list_patition_label.txt"
FACE_LISTS = {
    b"Action": ("ferv39k", "test_All.csv"), b"Valence": ("deap", "participant_ratings.csv"),
    b"face_x": ("affectnet", "training.csv"), b"video_name": ("dfew", "test/set_{n}.csv"),
    b"file": ("image-folder", "labels.csv"), b"Usage": ("ferplus", "fer2013new.csv"),
}  # fmt: skip


def face_pixels(folder: Path) -> list[bytes]:
    row = " ".join("7" for _ in range(48 * 48))
    return [f"emotion,pixels,Usage\n0,{row},Training\n3,{row},PublicTest\n".encode()]


def read_pixels(path: Path) -> object:
    return [PixelText(path, at, 48).read(0) for _, at, _ in pixel_rows(path)]


def annotations(folder: Path) -> list[bytes]:
    out = []
    for value in (np.array("3"), np.array(4), np.array([1.5])):
        file = io.BytesIO()
        np.save(file, value)
        out.append(file.getvalue())
    return out


def face_rows(folder: Path) -> list[bytes]:
    record = FaceRecord("a", "", "c1", "joy", "train", "ok", "", 1, "as-is", 68, 0.9, (1.0, 2.0, 3.0, 4.0), "k")
    return [to_csv([record, record]).encode()]


# --- tables of our own -------------------------------------------------------------------------------


def clip_tables(folder: Path) -> list[bytes]:
    row = dict.fromkeys(COLUMNS, "") | {
        "corpus": "casme2", "subject": "sub01", "clip": "EP02_01f", "onset": "46", "apex": "59", "offset": "86",
        "fps": "200.0", "status": "ok", "score": "0.5", "box_x": "1", "box_y": "2", "box_width": "3", "box_height": "4",
    }  # fmt: skip
    text = ",".join(COLUMNS) + "\n" + ",".join(row[c] for c in COLUMNS) + "\n"
    return [text.encode()]


def read_clips(path: Path) -> object:
    folder = path.parent / "prepared"
    folder.mkdir(exist_ok=True)
    (folder / "clips.csv").write_bytes(path.read_bytes())
    return [r.row() for r in read_records(folder)]


def box_tables(folder: Path) -> list[bytes]:
    return [b"subject,clip,x,y,width,height\nsub01,EP02_01f,1,2,30,40\n"]


def predictions(folder: Path) -> list[bytes]:
    head = "corpus,subject,clip,fold,true,pred,p_negative,p_positive\n"
    rows = [f"casme2,sub0{n},c{n},f,negative,{'positive' if n % 2 else 'negative'},0.5,0.5\n" for n in range(8)]
    return [(head + "".join(rows)).encode(), b"clip,subject,corpus,pred,true\na,b,c,x,y\na2,b,c,y,y\n"]


def read_predicted(path: Path) -> object:
    from mepipe_model.evaluate import score
    from mepipe_model.runs import read_predictions

    return score(*read_predictions(path))


# --- runs, weights -----------------------------------------------------------------------------------


def configs(folder: Path) -> list[bytes]:
    from mepipe.settings import TrainConfig

    data = {
        "corpora": ["casme2"], "composite": None, "missing": [], "classes": ["negative", "positive", "surprise"],
        "clips": 9, "left_out_without_label": 0, "folds": ["casme2_sub01", "casme2_sub02"], "parts": {},
        "flow": {"parameters": {"pad": 16, "tau": 0.25}, "normalised": False}, "shards": {"casme2-00000.h5": "ab"},
    }  # fmt: skip
    settings = TrainConfig(model="ststnet", epochs=2).as_dict()
    config = {
        "format": "mepipe.run", "version": 1, "settings": settings, "data": data,
        "fingerprint": "loso-casme2-ststnet-1", "model": {"name": "ststnet", "source": "", "fidelity": "code"},
        "device": {"type": "cpu", "name": "CPU"}, "versions": {"mepipe": "1", "torch": None}, "started": "then",
    }  # fmt: skip
    return [json.dumps(config, indent=2).encode(), json.dumps(config).encode()]


def read_config(path: Path) -> object:
    from mepipe_model.predict import averaged
    from mepipe_model.runs import decisive, load_run

    folder = path.parent / "run"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_bytes(path.read_bytes())
    run = load_run(folder)
    folds = [run.fold(f) for f in run.fold_ids]
    assert all(f.parent == folder / "folds" for f in folds)
    return decisive(run.settings), run.classes, run.finished(), run.parts, run.predictions(), averaged(run)


def saved_weights(folder: Path) -> Path:
    """A fold's weights, of the smallest model there is."""
    from mepipe_model import create_model
    from mepipe_model.data import Scale
    from mepipe_model.weights import save_weights

    place = folder / "fold"
    if not place.is_dir():
        place.mkdir()
        save_weights(place, create_model("ststnet"), Scale.none(), ("a", "b", "c"))
    return place


def weights(folder: Path) -> list[bytes]:
    return [(saved_weights(folder) / "weights.safetensors").read_bytes()]


def read_weights(path: Path) -> object:
    """With the sum of a stranger who can compute one."""
    from mepipe_model.weights import load_weights

    place = path.parent / "mutated"
    place.mkdir(exist_ok=True)
    (place / "weights.safetensors").write_bytes(path.read_bytes())
    about = json.loads((saved_weights(path.parent) / "weights.json").read_text())
    (place / "weights.json").write_text(json.dumps({**about, "sha256": hash_file(path)}))
    return load_weights(place)


def descriptions(folder: Path) -> list[bytes]:
    return [(saved_weights(folder) / "weights.json").read_bytes()]


def read_description(path: Path) -> object:
    from mepipe_model.weights import load_weights

    place = path.parent / "described"
    place.mkdir(exist_ok=True)
    (place / "weights.safetensors").write_bytes((saved_weights(path.parent) / "weights.safetensors").read_bytes())
    (place / "weights.json").write_bytes(path.read_bytes())
    return load_weights(place)


def checkpoints(folder: Path) -> list[bytes]:
    import torch

    state = {"next_epoch": 3, "model": {"a": torch.zeros(2, 3), "b": torch.ones(4)}, "log": [{"epoch": 1, "lr": "0"}]}
    out = []
    for zipped in (True, False):
        file = io.BytesIO()
        torch.save(state, file, _use_new_zipfile_serialization=zipped)
        out.append(file.getvalue())
    return out


def read_checkpoint(path: Path) -> object:
    from mepipe_model.tensorfiles import read_torch

    try:
        return read_torch(path)
    except ValueError as e:  # its callers turn this one into a DataError
        raise DataError(str(e)) from e


PROGRESSIVE = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_OPTIMIZE, 1]

TARGETS = {
    "sheet csv": Target(csv_sheets, ".csv", read_annotation),
    "sheet xlsx": Target(xlsx_sheets, ".xlsx", read_annotation),
    "frame png": Target(images(".png"), ".png", read_frame),
    "frame jpg": Target(images(".jpg", [], PROGRESSIVE), ".jpg", read_frame),
    "frame bmp": Target(images(".bmp"), ".bmp", read_frame),
    "frame tif": Target(images(".tif"), ".tif", read_frame),
    "video avi": Target(videos(".avi", "MJPG"), ".avi", read_video),
    "video mp4": Target(videos(".mp4", "mp4v"), ".mp4", read_video),
    "shard": Target(shards, ".h5", read_shard),
    "faces shard": Target(face_shards, ".h5", read_face_shard),
    "face list": Target(face_lists, ".txt", read_face_list),
    "face table": Target(face_tables, ".csv", read_face_list),
    "face pixels": Target(face_pixels, ".csv", read_pixels),
    "face npy": Target(annotations, ".npy", annotated),
    "faces csv": Target(face_rows, ".csv", read_table),
    "npz": Target(archives, ".npz", read_archive),
    "flo": Target(lambda folder: [flo_bytes(np.zeros((2, 4, 5), np.float32))], ".flo", read_flo),
    "clips.csv": Target(clip_tables, ".csv", read_clips),
    "boxes csv": Target(box_tables, ".csv", lambda path: GivenBoxes(str(path))),
    "predictions.csv": Target(predictions, ".csv", read_predicted),
    "config.json": Target(configs, ".json", read_config),
    "weights": Target(weights, ".safetensors", read_weights),
    "weights.json": Target(descriptions, ".json", read_description),
    "state.pt": Target(checkpoints, ".pt", read_checkpoint),
}
