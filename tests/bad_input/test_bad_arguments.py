"""Commands typed wrongly: options, settings files, places to write to."""

from __future__ import annotations

import os

import pytest
from bad_inputs import WRONG_USE, Bad, check, class_folders


def text(name: str, content: str | bytes):
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data)


def folder(name: str):
    return lambda here: (here / name).mkdir()


def pipe(name: str):
    return lambda here: os.mkfifo(here / name)


FIT = "fit {data} --out run"
PLAN = "plan --images 1000 --classes 2"
STACK = f"{FIT} --model layerwise"
TABLE = [
    # commands
    Bad("fot", "did you mean 'fit'?", code=WRONG_USE),
    Bad("xyz", "choose from demo, fit", code=WRONG_USE),
    Bad("--nonsense", "No such option", code=WRONG_USE),
    Bad("data lst", "No such command 'lst'", code=WRONG_USE),
    Bad("completion csh", "'csh' is not one of", code=WRONG_USE),
    # missing and surplus arguments
    Bad("fit", "Missing argument 'DATA'", code=WRONG_USE),
    Bad("fit {data}", "Missing option '--out'", code=WRONG_USE),
    Bad("fit {data} more --out run", "unexpected extra argument (more)", code=WRONG_USE),
    Bad("predict", "Missing argument 'RUN'", code=WRONG_USE),
    Bad("predict {run}", "Missing argument 'IMAGES...'", code=WRONG_USE),
    Bad("evaluate {run}", "Missing argument 'DATA'", code=WRONG_USE),
    Bad("certify {run}", "Missing argument 'DATA'", code=WRONG_USE),
    Bad("compare {data}", "Missing option '--out'", code=WRONG_USE),
    Bad("export {run} x.onnx", "Missing option '--to'", code=WRONG_USE),
    Bad("export {run} --to onnx", "Missing argument 'OUT'", code=WRONG_USE),
    Bad("report", "Missing argument 'RUN'", code=WRONG_USE),
    Bad("data info", "Missing argument 'DATA'", code=WRONG_USE),
    # numbers out of range or no numbers
    Bad(f"{FIT} --limit 0", "'--limit': 0 is not in the range x>=1", code=WRONG_USE),
    Bad(f"{FIT} --limit many", "'many' is not a valid integer", code=WRONG_USE),
    Bad(f"{FIT} --limit 1e3", "'1e3' is not a valid integer", code=WRONG_USE),
    Bad(f"{FIT} --seed -1", "-1 is not in the range", code=WRONG_USE),
    Bad(f"{FIT} --seed 4294967296", "is not in the range", code=WRONG_USE),
    Bad(f"{FIT} --beta 0", "0.0 is not in the range x>0", code=WRONG_USE),
    Bad(f"{FIT} --beta -1", "-1.0 is not in the range x>0", code=WRONG_USE),
    Bad(f"{FIT} --beta inf", "betas is", code=WRONG_USE),
    Bad(f"{FIT} --beta nan", "betas is", code=WRONG_USE),
    Bad(f"{FIT} --tolerance 0", "is not in the range x>0", code=WRONG_USE),
    Bad(f"{FIT} --tolerance inf", "tolerance is inf", code=WRONG_USE),
    Bad(f"{FIT} --memory-gb 0", "is not in the range x>0", code=WRONG_USE),
    Bad(f"{FIT} --memory-gb nan", "memory_gb is nan", code=WRONG_USE),
    Bad(f"{FIT} --memory-gb 1e-9", "memory", code=WRONG_USE),
    Bad(f"{FIT} --memory-gb 1e300", "memory_gb is 1e+300", code=WRONG_USE),
    Bad(f"{FIT} --n-gates 1{'0' * 25}", "n_gates is 1000", code=WRONG_USE),
    Bad(f"{FIT} --filter-size 0", "0 is not in the range", code=WRONG_USE),
    Bad(f"{FIT} --filter-size 9", "larger than the 8x8 image", code=WRONG_USE),
    Bad(f"{FIT} --stride 0", "0 is not in the range", code=WRONG_USE),
    Bad(f"{FIT} --padding -1", "-1 is not in the range", code=WRONG_USE),
    Bad(f"{FIT} --pooling 99", "pooling", code=WRONG_USE),
    Bad(f"{FIT} --n-gates 0", "0 is not in the range", code=WRONG_USE),
    Bad(f"{FIT} --whiten -1", "-1 is not in the range", code=WRONG_USE),
    Bad(f"{FIT} --limit 2", "there are 3 classes; give at least 3", code=WRONG_USE),
    Bad("predict {run} {picture} --top 0", "0 is not in the range", code=WRONG_USE),
    Bad("compare {data} --out run --epochs 0", "0 is not in the range", code=WRONG_USE),
    Bad("compare {data} --out run --momentum 1", "is not in the range", code=WRONG_USE),
    Bad("compare {data} --out run --learning-rate 0", "is not in the range", code=WRONG_USE),
    Bad(f"compare {{data}} --out run --filters 1{'0' * 25}", "at most 922", code=WRONG_USE),
    Bad(
        "compare {data} --out run --seeds 9 --seed 4294967295",
        "--seeds 9 counted from --seed 4294967295 end at 4294967303; the largest seed is",
        code=WRONG_USE,
    ),
    Bad(f"{PLAN} --shape 3,32,1{'0' * 20}", "give at most 1,000,000,000,000", code=WRONG_USE),
    Bad(f"{PLAN} --shape 3,32,32 --tflops 1e-320", "is not in the range 1e-06", code=WRONG_USE),
    Bad(
        f"{PLAN} --shape 3,32,32 --tflops 9 --bandwidth 1e-320",
        "is not in the range",
        code=WRONG_USE,
    ),
    Bad(f"{PLAN} --shape 3,32,32 --images 1{'0' * 25}", "is not in the range", code=WRONG_USE),
    Bad("compare {data} --out run --learning-rate nan", "learning_rate is nan", code=WRONG_USE),
    Bad("compare {data} --out run --learning-rate inf", "learning_rate is inf", code=WRONG_USE),
    Bad("compare {data} --out run --momentum nan", "momentum is nan", code=WRONG_USE),
    # choices
    Bad(f"{FIT} --model deep", "'deep' is not one of", code=WRONG_USE),
    Bad(f"{FIT} --formulation relux", "'relux' is not one of", code=WRONG_USE),
    Bad(f"{FIT} --regulariser l1", "'l1' is not one of", code=WRONG_USE),
    Bad(f"{FIT} --loss hinge", "'hinge' is not one of", code=WRONG_USE),
    Bad(f"{FIT} --solver newton", "'newton' is not one of", code=WRONG_USE),
    Bad(f"{FIT} --gates best", "'best' is not one of", code=WRONG_USE),
    Bad(f"{FIT} --device gpu", "device 'gpu' is not known", code=WRONG_USE),
    Bad(f"{FIT} --device cuda:99", "device cuda:99 is not there", code=WRONG_USE),
    Bad(f"{FIT} --device cpu:foo", "device 'cpu:foo' is not known", code=WRONG_USE),
    Bad(f"{FIT} --device cuda:", "device 'cuda:' is not known", code=WRONG_USE),
    Bad("export {run} x --to tflite", "'tflite' is not one of", code=WRONG_USE),
    Bad("export {run} x --to torch --pixels int8", "'int8' is not one of", code=WRONG_USE),
    Bad("evaluate {run} {data} --split dev", "'dev' is not one of", code=WRONG_USE),
    # settings that do not go together
    Bad(f"{FIT} --n-filters 4", "no setting 'n_filters'", code=WRONG_USE),
    Bad(f"{STACK} --budget inf --baselines vgg11", "budget is inf", code=WRONG_USE),
    Bad(f"{STACK} --budget 1e308", "budget is 1e+308", code=WRONG_USE),
    Bad(f"{FIT} --blocks small", "no setting 'blocks'", code=WRONG_USE),
    Bad(f"{FIT} --model layerwise --formulation relu", "is for model two-layer", code=WRONG_USE),
    Bad(f"{FIT} --model layerwise --stride 2", "no setting 'stride'", code=WRONG_USE),
    Bad(f"{FIT} --formulation relu --regulariser nuclear", "no exact program", code=WRONG_USE),
    Bad(f"{FIT} --solver direct --regulariser group", "cannot solve", code=WRONG_USE),
    Bad(f"{FIT} --solver adam", "solver 'adam' is not known", code=WRONG_USE),
    Bad(f"{FIT} --solver sgd --tolerance 0.1", "tolerance has no meaning", code=WRONG_USE),
    # settings files
    Bad(f"{FIT} --config none.toml", "there is no such file"),
    Bad(f"{FIT} --config {{here}}", "is a directory", code=WRONG_USE),
    Bad(f"{FIT} --config c", "is not valid TOML", text("c", "stride = ")),
    Bad(f"{FIT} --config c", "is not valid TOML", text("c", b"\xff\xfe\x00")),
    Bad(f"{FIT} --config c", "is not valid TOML", text("c", "stride = 1\nstride = 2")),
    Bad(f"{FIT} --config c", "did you mean 'stride'", text("c", "strid = 2"), WRONG_USE),
    Bad(f"{FIT} --config c", "is a table", text("c", "[gates]\nn = 2"), WRONG_USE),
    Bad(f"{FIT} --config c", "model 'x' is not known", text("c", 'model = "x"'), WRONG_USE),
    Bad(f"{FIT} --config c", "formulation is 3", text("c", "formulation = 3"), WRONG_USE),
    Bad(f"{FIT} --config c", "stride", text("c", 'stride = "two"'), WRONG_USE),
    Bad(f"{FIT} --config c", "stride", text("c", "stride = 1.5"), WRONG_USE),
    Bad(f"{FIT} --config c", "filter_size", text("c", "filter_size = -3"), WRONG_USE),
    Bad(f"{FIT} --config c", "betas", text("c", "betas = []"), WRONG_USE),
    Bad(f"{FIT} --config c", "betas", text("c", 'betas = ["a"]'), WRONG_USE),
    Bad(f"{FIT} --config c", "n_gates", text("c", "n_gates = 0"), WRONG_USE),
    Bad(f"{FIT} --config c", "n_gates", text("c", 'n_gates = "many"'), WRONG_USE),
    Bad(f"{FIT} --config c", "whiten", text("c", "whiten = -2"), WRONG_USE),
    Bad(f"{FIT} --config c", "seed", text("c", 'seed = "lucky"'), WRONG_USE),
    Bad(f"{FIT} --config c", "seed is 1000", text("c", f"seed = {10**30}"), WRONG_USE),
    Bad(f"{FIT} --config c", "seed is 4294967296", text("c", "seed = 4294967296"), WRONG_USE),
    Bad(f"{FIT} --config c", "baselines is 5", text("c", "baselines = 5"), WRONG_USE),
    Bad(f"{FIT} --config c", "baselines is True", text("c", "baselines = true"), WRONG_USE),
    Bad(f"{STACK} --config c", "budget is -1.0", text("c", "budget = -1.0"), WRONG_USE),
    Bad(f"{STACK} --config c", "budget is nan", text("c", "budget = nan"), WRONG_USE),
    Bad(f"{STACK} --config c", "budget is 1000", text("c", f"budget = {10**400}"), WRONG_USE),
    Bad(f"{STACK} --config c", "validation", text("c", "validation_fraction = 0.0"), WRONG_USE),
    Bad(f"{FIT} --config c", "limit", text("c", 'limit = "ten"'), WRONG_USE),
    Bad(f"{FIT} --config c", "image_size", text("c", "image_size = -5"), WRONG_USE),
    Bad(f"{FIT} --config c", "validation", text("c", "validation_fraction = 2.0"), WRONG_USE),
    Bad(f"{FIT} --config c", "augment", text("c", 'augment = "rotate"'), WRONG_USE),
    Bad(f"{FIT} --config c", "class_weight", text("c", 'class_weight = "heavy"'), WRONG_USE),
    Bad(f"{FIT} --config c", "memory_gb", text("c", 'memory_gb = "8"'), WRONG_USE),
    Bad(f"{FIT} --config c", "memory_gb is 1000", text("c", f"memory_gb = {10**400}"), WRONG_USE),
    # where things are written to
    Bad("fit {data} --out {run}", "already holds a run"),
    Bad("fit {data} --out {here}", "exists and is not a run"),
    Bad("fit {data} --out {picture}", "is a file", code=WRONG_USE),
    Bad("fit {data} --out {picture}/run", "Not a directory"),
    Bad("fit {data} --out /", "cannot hold a run"),
    Bad("fit {data} --out /proc/run", "/proc/run"),
    Bad(f"{FIT} --log-jsonl none/log", "none/log: there is no folder none"),
    Bad(f"{FIT} --log-jsonl {{here}}", "is a directory", code=WRONG_USE),
    Bad("export {run} {here}/none/x --to torch", "there is no folder"),
    Bad("export {run} {picture} --to torch", "exists; name another file"),
    Bad("predict {run} {picture} --csv none/x.csv", "there is no folder none; make it first"),
    Bad("predict {run} none.png --csv none/x.csv", "there is no folder none; make it first"),
    Bad("predict {run} {picture} --csv {picture}", "picture.png is one of the pictures"),
    Bad("predict {run} bad --csv bad/ash/0.png --overwrite", "one of the pictures", class_folders),
    Bad(
        "predict {run} {picture} --csv c", "c holds no labels of pictures", text("c", "path,label")
    ),
    Bad("predict {run} {picture} --csv {run}/model.safetensors", "is a part of the run"),
    Bad("predict {run} {picture} --csv {run}/result.json --overwrite", "is a part of the run"),
    Bad("predict {run} {picture} --csv /dev/full", "/dev/full: cannot be written (No space left"),
    Bad("export {run} {run}/config.json --to torch --overwrite", "is a part of the run"),
    Bad("export {run} pipe --to torch --overwrite", "pipe is no regular file", pipe("pipe")),
    Bad("explain {run} bad/ash --out bad/ash/why", "lies in bad/ash, which", class_folders),
    Bad(f"{FIT} --log-jsonl {{picture}}", "picture.png holds no log of events"),
    Bad(f"{FIT} --log-jsonl {{run}}/result.json", "is a part of the run"),
    Bad("fit bad --out bad/run", "bad/run lies in bad, which is read", class_folders),
    Bad("fit bad --out bad/run --model layerwise", "bad/run lies in bad", class_folders),
    Bad("compare bad --out ./bad/run", "bad/run lies in bad, which is read", class_folders),
    Bad("fit bad --out run --tensorboard bad/log", "bad/log lies in bad", class_folders),
    Bad("fit {data} --out . --resume", "no unfinished run to resume"),
    Bad("fit {data} --out / --resume", "cannot hold a run"),
    # runs that are none
    Bad("report none", "there is no such run"),
    Bad("predict none {picture}", "there is no such run"),
    Bad("evaluate none {data}", "there is no such run"),
    Bad("certify none {data}", "there is no such run"),
    Bad("explain none {picture}", "there is no such run"),
    Bad("export none x --to torch", "there is no such run"),
    Bad("predict empty {picture}", "config.json is missing", folder("empty")),
    Bad("report empty", "is not a run", folder("empty")),
    Bad("report {picture}", "is a file", code=WRONG_USE),
    # subjects that are none
    Bad("predict {run} ''", "the name is empty", code=WRONG_USE),
    Bad("explain {run} ''", "the name is empty", code=WRONG_USE),
    Bad("predict '' {picture}", "the name is empty", code=WRONG_USE),
    Bad("fit '' --out run", "the name of the data set is empty"),
    Bad("plan ''", "the name of the data set is empty"),
    Bad("predict {run} none.png", "there is no such file"),
    Bad("predict {run} empty", "holds no pictures", folder("empty")),
    Bad("explain {run}", "IMAGES", code=WRONG_USE),
    Bad("explain {run} --data {data} --test-index 999", "from 0 to 11, not 999"),
    Bad("explain {run} {picture} --target oak", "class 'oak' is not known", code=WRONG_USE),
    Bad("evaluate {run} none", "no data set, folder or file none"),
    Bad("evaluate {run} cifar1", "did you mean cifar10?"),
    Bad("data info ~nosuchuser/pics", "~nosuchuser/pics: there is no such user"),
    Bad("plan ~nosuchuser/pics", "~nosuchuser/pics: there is no such user"),
    Bad(f"data info {'a' * 300}", "cannot be looked for (File name too long)"),
    Bad("data info digits --root ~nosuchuser/pics", "there is no such user"),
]


@pytest.mark.parametrize("case", TABLE, ids=lambda case: case.arguments + " | " + case.message)
def test_it_is_refused_in_one_line(case, places, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check(case, tmp_path, places)
