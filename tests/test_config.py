"""mepipe.toml: equal to the command line option by option, told by line when wrong, shown with its sources."""

from __future__ import annotations

import dataclasses
import json
import re

import click
import pytest

from mepipe.cli import cli
from mepipe.clioptions import SpreadWords
from mepipe.configfile import CONFIGS, NAME, find_settings, option_fields, read_settings
from mepipe.configshow import template
from mepipe.errors import UsageError
from mepipe.settings import TrainConfig
from mepipe_model.recipes import RECIPES

OPTIONS = [(command, key) for command in CONFIGS for key in option_fields(command)]


def other_value(f: dataclasses.Field):
    """A valid value that is not the default."""
    kind, meta = str(f.type).removesuffix(" | None"), f.metadata
    if kind == "bool":
        return not f.default
    if f.name == "options":
        return ["window=14"]
    if kind.startswith("tuple"):
        return [3, 4] if "int" in kind else ["one", "two"]
    if meta["choices"]:
        return next(c for c in meta["choices"] if c != f.default)
    if kind == "str":
        return "something"
    number = next(n for n in (meta["low"] or 0, (meta["low"] or 0) + 1) if n != f.default)
    return number if kind == "int" else number + 0.5


def words(key: str, value) -> list[str]:
    """How the command line says the same."""
    if isinstance(value, bool):
        return [f"--{key}" if value else f"--no-{key}"]
    if isinstance(value, list) and key in ("data", "seeds"):
        return [f"--{key}", *map(str, value)]
    if isinstance(value, list):
        return [word for v in value for word in (f"--{key}", v)]
    return [f"--{key}", str(value)]


def parsed(command: str, args: list[str], default_map=None) -> dict:
    """The settings that the real command makes of ``args``, without running it."""
    root = click.Context(cli, info_name="mepipe", default_map=default_map)
    needed = ["casme2", "raw"] if command == "prepare" else []
    context = cli.commands[command].make_context(command, [*needed, *args], parent=root)
    return {f.name: context.params[f.name] for f in option_fields(command).values()}


@pytest.mark.parametrize(("command", "key"), OPTIONS)
def test_every_option_means_the_same_in_the_file_and_on_the_command_line(command, key, tmp_path):
    f = option_fields(command)[key]
    value = other_value(f)
    file = tmp_path / NAME
    file.write_text(f"[{command}]\n{key} = {json.dumps(value)}\n")
    settings = read_settings(file)
    from_file = parsed(command, [], settings.default_map()[command] and settings.default_map())
    from_words = parsed(command, words(key, value))
    assert from_file == from_words
    assert from_file != parsed(command, []), "the value is not the default"
    assert CONFIGS[command] is not TrainConfig or settings.values("train")[f.name] == from_words[f.name]


def test_the_command_line_has_no_option_that_the_file_lacks():
    outside = {"corpora", "corpus", "raw", "as_json"}
    for command in CONFIGS:
        there = {p.name for p in cli.commands[command].params} - outside
        assert there == {f.name for f in option_fields(command).values()}


def test_the_command_line_wins_over_the_file_and_the_file_over_the_default(tmp_path):
    file = tmp_path / NAME
    file.write_text('[train]\nepochs = 5\nbatch_size = 4\ndata = "samm"\nset = { window = 7, share = true }\n')
    got = parsed("train", ["--epochs", "9", "--data", "casme2"], read_settings(file).default_map())
    assert (got["epochs"], got["batch_size"], got["data"], got["k"]) == (9, 4, ("casme2",), TrainConfig.k)
    assert got["options"] == ("window=7", "share=true")


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("[train]\n\n# more\nepoch = 3\n", 4, "[train] has no option 'epoch'; did you mean 'epochs'?"),
        ("[trian]\nepochs = 3\n", 1, "no table is called 'trian'; did you mean [train]?"),
        ("epochs = 3\n", 1, "no table is called 'epochs'; did you mean [train]?"),
        ("[flow]\npad = 16\n[train]\ndata = [\n  'samm',\n  3,\n]\n", 4, "data is 3"),
        ("[train]\nepochs = '3'\n", 2, "epochs is '3'; write a whole number"),
        ("[train]\nepochs = 7.5\n", 2, "epochs is 7.5; write a whole number"),
        ("[prepare]\njobs = true\n", 2, "jobs is True; write a whole number"),
        ("[prepare]\nforce = 'no'\n", 2, "force is 'no'; write true or false"),
        ("[prepare]\ndetector = 'haar'\n", 2, "--detector is 'haar'; valid: dlib"),
        ("[train]\nseeds = [1, -1]\n", 2, "--seeds is -1; it must be at least 0"),
        ("[train]\nmin-lr = 1e-6\nmin_lr = 1e-5\n", 3, "given twice"),
        ("[train]\nset = 7\n", 2, "set is 7"),
        ("train = 3\n", 1, "train is no table"),
    ],
)
def test_a_wrong_file_is_told_by_line_with_what_to_write(text, line, says, tmp_path):
    file = tmp_path / NAME
    file.write_text(text)
    with pytest.raises(UsageError) as e:
        read_settings(file)
    assert f"{file}:{line}: " in str(e.value)
    assert says in str(e.value)


@pytest.mark.parametrize("text", [b"[train\n", b"\xff\xfe", b"a = " + b"[" * 5000])
def test_what_is_no_toml_is_one_line(text, tmp_path):
    file = tmp_path / NAME
    file.write_bytes(text)
    with pytest.raises(UsageError, match="settings file"):
        read_settings(file)


def test_the_file_is_looked_for_here_and_then_in_the_workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    work = tmp_path / "work"
    work.mkdir()
    assert find_settings(None, work) is None
    (work / NAME).write_text("")
    assert find_settings(None, work) == work / NAME
    (tmp_path / NAME).write_text("")
    assert str(find_settings(None, work)) == NAME
    assert find_settings(work / "other.toml", work) == work / "other.toml"


def test_the_template_holds_every_option_and_is_a_right_file(tmp_path):
    """As it is, and with every default that it shows written out."""
    file = tmp_path / NAME
    file.write_text(template())
    assert not any(read_settings(file).tables.values())
    uncommented = re.sub(r"^#([\w-]+ = )(?!<)", r"\1", template(), flags=re.MULTILINE)
    file.write_text(uncommented)
    settings = read_settings(file)
    for command, config in CONFIGS.items():
        defaults = {f.name: f.default for f in dataclasses.fields(config)}
        assert {k: v for k, v in settings.values(command).items() if k != "seeds"}.items() <= defaults.items()
    for command, key in OPTIONS:
        assert re.search(rf"^#{key} = ", template().partition(f"[{command}]")[2], re.MULTILINE), key


def test_a_script_uses_the_file_too(tmp_path):
    (tmp_path / NAME).write_text("[train]\nmodel = 'ststnet'\nepochs = 3\n")
    config = TrainConfig(**read_settings(tmp_path / NAME).values("train"))
    assert (config.model, config.epochs) == ("ststnet", 3)


def test_what_ran_is_recorded_as_if_it_had_been_typed(made_raw, run_mepipe, tmp_path):
    """prepare by file and by words: the same clips.csv, the same settings in prepare.json."""
    (tmp_path / NAME).write_text("[prepare]\nframes = 'around'\nshard = '1/9'\nmax-gap = 2\njobs = 1\n")
    assert run_mepipe("-w", "by-file", "prepare", "casme2", made_raw).returncode == 0
    (tmp_path / NAME).unlink()
    typed = ("--frames", "around", "--shard", "1/9", "--max-gap", 2, "--jobs", 1)
    assert run_mepipe("-w", "by-words", "prepare", "casme2", made_raw, *typed).returncode == 0
    one, two = (tmp_path / w / "prepared" / "casme2" for w in ("by-file", "by-words"))
    assert (one / "clips.csv").read_bytes() == (two / "clips.csv").read_bytes()
    settings = [json.loads((folder / "prepare.json").read_text())["settings"] for folder in (one, two)]
    assert settings[0] == settings[1]
    assert settings[0]["frames"] == "around"


def test_show_tells_where_each_value_came_from(run_mepipe, tmp_path):
    (tmp_path / NAME).write_text("[train]\nmodel = 'merba_tiny'\nepochs = 6\n[prepare]\nmax-gap = 1\n")
    done = run_mepipe("config", "show", "train", "--epochs", "4", "--data", "casme2", "samm", "--json")
    shown = json.loads(done.stdout)
    assert shown["file"] == NAME
    train = shown["settings"]["train"]
    assert train["model"] == {"value": "merba_tiny", "source": f"{NAME}:2"}
    assert train["epochs"] == {"value": 4, "source": "command line"}
    assert train["data"] == {"value": ["casme2", "samm"], "source": "command line"}
    recipe = RECIPES["merba_tiny"]
    assert train["batch-size"] == {"value": recipe.batch_size, "source": "recipe of merba_tiny"}
    assert train["protocol"] == {"value": "loso", "source": "default; of a corpus of faces its own"}
    assert train["warmup"]["value"] < recipe.warmup
    assert train["warmup"]["source"] == f"recipe of merba_tiny: {recipe.warmup}, which does not fit into 4 epochs"
    assert set(train) == set(option_fields("train"))
    flow = json.loads(run_mepipe("config", "show", "flow", "--preset", "micro", "--warps", 3, "--json").stdout)
    assert flow["settings"]["flow"]["lambda"] == {"value": 0.09, "source": "preset micro"}
    assert flow["settings"]["flow"]["warps"] == {"value": 3, "source": "command line"}
    text = run_mepipe("config", "show").stdout
    assert re.search(rf"max-gap +1 +{NAME}:5", text)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["config", "show", "train", "--protocol", "lozo"], "'lozo' is not one of"),
        (["config", "show", "demo"], "demo takes no settings from a file"),
        (["--config", "absent.toml", "flow"], "settings file absent.toml cannot be read"),
        (["train", "-v"], "-v stands before the command: mepipe -v ... train"),
    ],
)
def test_a_wrong_request_is_one_line(args, says, run_mepipe):
    done = run_mepipe(*args)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert says in line


def test_a_broken_file_stops_the_commands_that_read_it_and_no_other(run_mepipe, tmp_path):
    (tmp_path / NAME).write_text("[train]\nepoch = 3\n")
    assert f"{NAME}:2" in run_mepipe("train").stderr
    assert run_mepipe("datasets").returncode == 0
    (tmp_path / NAME).write_text("[train]\nk = 3\n")
    assert f"({NAME} was read too: mepipe config show)" in run_mepipe("train", "--folds", "x", "--k", 1).stderr
    assert run_mepipe("config", "init").returncode == 2, "it is there already"
    assert run_mepipe("config", "init", "--force").returncode == 0
    assert (tmp_path / NAME).read_text() == template()


def test_commands_that_do_part_of_the_work_take_its_settings(tmp_path):
    file = tmp_path / NAME
    file.write_text("[prepare]\nmax-gap = 1\n[train]\nepochs = 3\n")
    given = read_settings(file).default_map()
    assert given["verify"]["max_gap"] == given["apex"]["evaluate"]["max_gap"] == 1
    assert given["reproduce"]["epochs"] == 3
    assert isinstance(cli.commands["reproduce"], SpreadWords)
