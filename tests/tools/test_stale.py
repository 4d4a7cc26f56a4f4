"""What `make audit` lists as stale."""

import json

from genimg_lib.provenance import source_hash
from tools.stale import ROOT, stale_files


def test_lists_what_was_made_by_other_code(tmp_path):
    modules = ["genimg_lib.provenance"]
    fresh = {"provenance": {"modules": modules, "source_sha256": source_hash(modules)}}
    stale = {"provenance": {"modules": modules, "source_sha256": "0" * 64}}
    for name, block in {
        "bench/results/a/x.json": fresh,
        "bench/results/a/y.json": stale,
        "genimg_lib/weights/z.json": stale["provenance"],  # a weight file is the block itself
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(block))
    assert [path.name for path in stale_files(tmp_path)] == ["y.json", "z.json"]


def test_reads_every_committed_result_and_weight_file():
    assert set(stale_files(ROOT)) <= {*ROOT.glob("bench/results/*/*.json"), *ROOT.glob("genimg_lib/weights/*.json")}
