"""`ddattr verify`: whatever is changed in a run, its line and no other says so."""

import json
import os
import shutil
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from conftest import contents, manifest, refused

from ddattr.archive import files
from ddattr.artifacts import Artifact, fingerprint
from ddattr.files import load_tensors, save_json, save_tensors, save_text
from ddattr.stages.saved import read, renewed
from ddattr.stages.verify import verdicts

MEMBER = "members/002/member.safetensors"


@pytest.fixture
def mine(reproduced, tmp_path) -> Path:
    """A copy of a whole run."""
    return shutil.copytree(reproduced.root, tmp_path / "mine", ignore=shutil.ignore_patterns("wandb"))


def lines(said) -> dict[str, str]:
    """Verdicts by artifact."""
    found = (line.split(maxsplit=1) for line in said.out.splitlines() if not line.startswith("verify:"))
    return {name: verdict.strip() for name, verdict in found}


def failed(said, **expected: str) -> None:
    """These artifacts and no others have these verdicts, and stderr names them."""
    refused(said, f"verify: {len(expected)} of ", *expected)
    assert {name: verdict for name, verdict in lines(said).items() if verdict != "ok"} == expected


def changed(root: Path) -> dict[str, str]:
    """Verdicts that are not ok."""
    return {name: verdict for name, verdict in verdicts(files(root)).items() if verdict != "ok"}


def flip(path: Path) -> None:
    """One bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def packed(folder: Path, kind: str) -> Path:
    return Path(shutil.make_archive(str(folder), kind, folder.parent, folder.name))


def test_a_whole_run_is_ok_as_a_folder_and_as_an_archive_and_nothing_is_written(ddattr, mine):
    before = contents(mine)
    said = ddattr("verify", str(mine))
    assert (said.status, said.err) == (0, "")
    beside = {"config.yaml", "costs.csv", "near_duplicates.parquet", "report.html", "units.parquet"}
    count = len(list(mine.glob("members/*/"))) + 4 + len(beside)  # codebook, quality, attribution, figures
    assert beside <= set(lines(said))
    assert len(lines(said)) == count
    assert set(lines(said).values()) == {"ok"}
    assert said.out.endswith(f"verify: {count} of {count} artifacts ok, 0 not, 0 not made\n")
    for kind in ("zip", "gztar"):
        assert ddattr("verify", packed(mine, kind).name) == said
    assert contents(mine) == before


def test_every_file_of_an_artifact_has_its_digest(mine):
    for path in mine.rglob("manifest.json"):
        below = {p.relative_to(path.parent).as_posix() for p in path.parent.rglob("*") if p.is_file()}
        assert set(manifest(path.parent)["files"]) == below - {"manifest.json", "status.json", ".lock"}
        assert all(len(digest) == 64 for digest in manifest(path.parent)["files"].values())


FILES = [
    MEMBER,
    "members/002/metrics.csv",
    "codebook/codebook.json",
    "quality/fid.csv",
    "attribution/default/influence.parquet",
    "figures/fig1_codebook.png",
    "figures/fig1_codebook.pdf",
    "figures/summary.txt",
]


@pytest.mark.parametrize("name", FILES)
def test_a_bit_an_end_or_a_file_that_is_lost_is_named(ddattr, mine, name):
    path, (folder, _, file) = mine / name, name.rpartition("/")
    content = path.read_bytes()
    flip(path)
    failed(ddattr("verify", str(mine)), **{folder: f"damaged: {file}"})
    assert changed(packed(mine, "gztar")) == {folder: f"damaged: {file}"}
    path.write_bytes(content[:-1])
    assert changed(mine) == {folder: f"damaged: {file}"}
    path.unlink()
    assert changed(mine) == {folder: f"damaged: {file} missing"}
    path.write_bytes(content)
    assert not changed(mine)


@pytest.mark.parametrize(
    "name", ["config.yaml", "costs.csv", "near_duplicates.parquet", "report.html", "units.parquet"]
)
def test_a_file_beside_the_artifacts_that_is_changed_or_lost_is_named(ddattr, mine, name):
    path = mine / name
    content = path.read_bytes()
    path.write_bytes(content.replace(b"project: ddattr", b"project: mine", 1))
    if name != "config.yaml":
        flip(path)
    failed(ddattr("verify", str(mine)), **{name: "damaged"})
    assert changed(packed(mine, "gztar")) == {name: "damaged"}
    path.unlink()
    assert changed(mine) == ({} if name == "config.yaml" else {name: "damaged: it is not there"})
    path.write_bytes(content)
    assert not changed(mine)


def test_a_config_that_was_changed_by_hand_has_its_checksum_again_from_the_next_command_that_keeps_it(mine):
    path = mine / "config.yaml"
    path.write_text(path.read_text().replace("project: ddattr", "project: mine", 1))
    assert changed(mine) == {"config.yaml": "damaged"}
    save_text(path, renewed(mine, read(mine)))
    assert not changed(mine)
    assert "project: mine" in path.read_text()
    assert renewed(mine, read(mine)) is None


def test_members_that_changed_places_are_named(ddattr, mine):
    one, two, aside = (mine / "members" / name for name in ("001", "002", "aside"))
    one.rename(aside), two.rename(one), aside.rename(two)
    said = ddattr("verify", str(mine))
    assert lines(said)["members/001"] == "made from other parents: it is member 2"
    assert lines(said)["members/002"] == "made from other parents: it is member 1"
    for stage in ("quality", "attribution/default"):
        assert lines(said)[stage] == "made from other parents: members, members/001, members/002"
    assert {lines(said)[name] for name in ("codebook", "members/000", "members/003", "figures")} == {"ok"}
    one.rename(aside), two.rename(one), aside.rename(two)
    shutil.copy(one / "member.safetensors", two)
    failed(ddattr("verify", str(mine)), **{"members/002": "damaged: member.safetensors"})


def foreign(root: Path) -> None:
    """Member 2 of another machine: of the same config, in one weight another, and whole."""
    folder = root / "members" / "002"
    weights, made = load_tensors(folder / "member.safetensors"), manifest(folder)
    next(iter(weights.values())).view(-1)[0] += 1e-3
    (folder / "manifest.json").unlink()
    artifact = Artifact(folder, made["config"], made["parents"])
    artifact.make(0, lambda: save_tensors(folder / "member.safetensors", weights))


def test_a_member_of_the_same_config_and_other_bits_is_told_by_what_was_made_of_it(ddattr, mine):
    foreign(mine)
    other = "made from other parents: members/002"
    failed(ddattr("verify", str(mine)), **{"quality": other, "attribution/default": other})
    refused(ddattr("evaluate", str(mine)), "quality", "was made of another members/002 than lies there now")
    refused(ddattr("attribute", str(mine)), "attribution", "was made of another members/002 than lies there now")
    refused(ddattr("validate", str(mine)), "attribution", "was made of another members/002 than lies there now")


@pytest.mark.parametrize("verb", ["evaluate", "attribute", "validate"])
@pytest.mark.parametrize("exchanged", ["weights", "folder"])
def test_a_verb_refuses_an_exchanged_member_in_one_line(ddattr, mine, verb, exchanged):
    names = ("member.safetensors",) if exchanged == "weights" else ("member.safetensors", "manifest.json")
    for name in names:
        shutil.copy(mine / "members" / "001" / name, mine / "members" / "002")
    if verb != "validate":  # which needs what they make
        shutil.rmtree(mine / {"evaluate": "quality", "attribute": "attribution"}[verb])
    before = contents(mine / "members")
    words = "is damaged or not what its manifest says" if exchanged == "weights" else "was made with member=1 (now 2)"
    if (verb, exchanged) == ("validate", "folder"):
        words = "was made of another members/002 than lies there now"
    refused(ddattr(verb, str(mine)), "members/002", words)
    assert contents(mine / "members") == before


@pytest.mark.parametrize("name", ["quality/fid.csv", "attribution/default/agreement.csv"])
def test_no_report_is_drawn_of_a_table_that_was_changed(ddattr, mine, name):
    shutil.rmtree(mine / "figures")
    flip(mine / name)
    refused(ddattr("report", str(mine)), name, "is damaged or not what its manifest says")
    assert not (mine / "figures" / "manifest.json").exists()


@pytest.mark.parametrize("key", ["config", "parents", "fingerprint", "seed", "commit", "files", "read"])
def test_a_manifest_with_one_key_changed_is_named(mine, key):
    path = mine / "quality" / "manifest.json"
    made = json.loads(path.read_text())
    made[key] = {**made[key], "new": 1} if isinstance(made[key], dict) else f"{made[key]}0"
    save_json(path, made)
    said = changed(mine)
    assert said["quality"].startswith("damaged: manifest.json")
    assert {name for name, verdict in said.items() if verdict.startswith("damaged")} == {"quality"}


def test_a_manifest_that_is_none_is_damaged(mine):
    for text in ("{", "[1]", "{}", "[" * 100000, '{"fingerprint": "0", "config": 1, "parents": {}}'):
        (mine / "members" / "005" / "manifest.json").write_text(text)
        assert changed(mine)["members/005"] == "damaged: manifest.json"


def test_what_is_unfinished_or_missing_is_said_and_does_not_fail(ddattr, trained, tmp_path):
    root = shutil.copytree(trained, tmp_path / "begun")
    (root / "members" / "004" / "manifest.json").unlink()
    shutil.rmtree(root / "members" / "005")
    said = ddattr("verify", str(root))
    assert (said.status, said.err) == (0, "")
    assert (lines(said)["members/004"], lines(said)["members/005"]) == ("unfinished", "missing")
    assert said.out.endswith("verify: 8 of 10 artifacts ok, 0 not, 2 not made\n")


def test_a_report_that_is_made_again_is_ok_and_one_that_is_out_of_date_does_not_fail(ddattr, mine):
    other = Artifact(mine / "figures", {"name": "x"}, {"attribution": "0"}, view=True)
    (mine / "figures" / "manifest.json").unlink()
    other.make(0, lambda: None)
    said = ddattr("verify", str(mine))
    assert said.status == 0
    assert lines(said)["figures"] == "out of date: attribution"
    assert ddattr("report", str(mine)).status == 0
    assert lines(ddattr("verify", str(mine)))["figures"] == "ok"
    (mine / "figures" / "summary.txt").write_text("drawn again by `validate`")
    other.redrawn()
    assert lines(ddattr("verify", str(mine)))["figures"] == "ok"


def test_a_run_of_before_there_were_all_digests_loads_and_says_which_have_none(ddattr, mine):
    for path in mine.rglob("manifest.json"):
        made = {k: v for k, v in json.loads(path.read_text()).items() if k not in ("checksum", "read", "beside")}
        made["files"] = {k: v[:16] for k, v in made["files"].items() if k.endswith(".safetensors")}
        save_json(path, made)
    path = mine / "config.yaml"
    path.write_text(path.read_text().partition("# checksum")[0])
    said = ddattr("verify", str(mine))
    assert said.status == 0
    assert lines(said)["quality"] == "ok, without digest: convergence.csv, fid.csv, likeness.csv"
    assert {lines(said)[name] for name in ("config.yaml", "report.html", "units.parquet")} == {"ok, without digest"}
    assert ddattr("attribute", str(mine)).out.startswith("attribute: already done")
    flip(mine / MEMBER)
    refused(ddattr("verify", str(mine)), "members/002")


@pytest.mark.parametrize("kept", ["", "f", "0" * 15])
def test_a_digest_that_is_none_is_that_of_no_file(mine, kept):
    path = mine / "members" / "002" / "manifest.json"
    made = {k: v for k, v in json.loads(path.read_text()).items() if k != "checksum"}
    save_json(path, made | {"files": {"member.safetensors": kept}})
    assert changed(mine)["members/002"] == "damaged: member.safetensors"


@pytest.mark.parametrize("name", ["../../escaped", "/tmp/escaped", "run/../../escaped", "..\\escaped", "c:/escaped"])
@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_an_archive_whose_names_lead_elsewhere_is_refused(ddattr, tmp_path, name, kind):
    path = tmp_path / "in" / f"x.{kind}"
    path.parent.mkdir()
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, "x")
    else:
        with tarfile.open(path, "w:gz") as archive:
            archive.addfile(tarfile.TarInfo(name))
    before = contents(tmp_path)
    refused(ddattr("verify", str(path)), str(path), "leads out of it", "Do not unpack it")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("type_", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_of_an_archive_are_refused(ddattr, tmp_path, type_):
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as archive:
        info = tarfile.TarInfo("run/config.yaml")
        info.type, info.linkname = type_, "/etc/passwd"
        archive.addfile(info)
    refused(ddattr("verify", "x.tar.gz"), "is a link or a device")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        info = zipfile.ZipInfo("run/config.yaml")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    refused(ddattr("verify", "x.zip"), "is a link or a device")


def test_an_archive_that_is_damaged_or_has_a_name_twice_is_refused(ddattr, mine, tmp_path):
    for kind in ("zip", "gztar"):
        path = packed(mine, kind)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        refused(ddattr("verify", str(path)), str(path), "is damaged, or no archive")
    with tarfile.open(tmp_path / "twice.tar", "w") as archive:
        for _ in range(2):
            archive.addfile(tarfile.TarInfo("run/config.yaml"))
    refused(ddattr("verify", "twice.tar"), "run/config.yaml is there twice")


def test_a_pipe_or_a_link_in_a_circle_does_not_hold_it_up(ddattr, mine):
    os.mkfifo(mine / "members" / "002" / "pipe")
    (mine / "members" / "circle").symlink_to(mine)
    assert ddattr("verify", str(mine)).status == 0


@pytest.mark.parametrize("target", ["os.system", "builtins.eval", "torch.hub.load", "torch.load"])
def test_a_config_that_names_foreign_constructors_is_refused_and_runs_nothing(ddattr, mine, target):
    path = mine / "config.yaml"
    path.write_text(path.read_text().replace("ddattr.diffusion.unet.UNet", target))
    words = f"unet._target_={target} is no constructor of ddattr's"
    for verb in ("verify", "report", "status"):
        refused(ddattr(verb, str(mine)), words)
    refused(ddattr("verify", str(packed(mine, "zip"))), words)


def test_no_run_is_no_ok(ddattr, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(ddattr("verify", "empty"), "has no artifact, expected those of a run")
    refused(ddattr("verify", "nowhere.zip"), "nowhere.zip is missing")
    refused(ddattr("verify", "no/where"), "no/where is missing")


def test_the_fingerprint_of_members_is_that_of_the_list_of_theirs(mine):
    prints = [manifest(folder)["fingerprint"] for folder in sorted(mine.glob("members/*/"))]
    assert manifest(mine / "quality")["parents"] == {"members": fingerprint(prints)}
