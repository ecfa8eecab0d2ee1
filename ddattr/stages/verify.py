"""`ddattr verify FOLDER`: checks every file of a run against its recorded checksum, and what it was made of.

FOLDER may be an archive of one (.zip, .tar.gz), which is not unpacked, or an export by itself. Nothing is built, and
nothing is loaded but text. A line for each artifact: ok, damaged (which file), made from other parents, unfinished,
missing; and for each file that lies beside them in the run's folder. The exit status is not 0 where something is
damaged or of other parents; what is not made yet, or is to be drawn again, is only said.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ddattr.archive import File, files
from ddattr.artifacts import checksum, fingerprint, own_files, same_digest
from ddattr.stages.folder import Folder
from ddattr.stages.saved import NAME, named, vetted, whole

_WHOLE = ("ok", "unfinished", "missing", "out of date")
_OF_OTHERS = ("comparison", "ensembles", "sizes")  # whose parents are other runs, which may lie anywhere


def run(run: Folder) -> None:
    """Prints a line for every artifact.

    Raises:
        FileNotFoundError, ValueError: an artifact is not what was made; no run lies there; its config is refused.
    """
    root = Path(run.folder) if run.folder else run.root
    found = files(root)
    if NAME in found:
        vetted(root / NAME, found[NAME].text or "", named(run.overrides))
    said = verdicts(found)
    if set(said) <= set(found):  # which are files, and no artifact's folder
        raise ValueError(f"verify: {root} has no artifact, expected those of a run. Name a run's folder.")
    for beside in (False, True):
        names = [name for name in said if ("/" not in name and "." in name) == beside]
        for name in names:
            print(f"{name:<{max(map(len, names))}}  {said[name]}")
    bad = [name for name, verdict in said.items() if not verdict.startswith(_WHOLE)]
    count = sum(verdict.startswith("ok") for verdict in said.values())
    print(f"verify: {count} of {len(said)} artifacts ok, {len(bad)} not, {len(said) - count - len(bad)} not made")
    if bad:
        raise ValueError(
            f"verify: {len(bad)} of {len(said)} artifacts of {root} are not what was made: {', '.join(bad)}. Take "
            "their folders from where they are whole, or delete these and make them again."
        )


def verdicts(found: Mapping[str, File]) -> dict[str, str]:
    """What is to be said of every artifact, by its folder's name below the run's, and of every file beside them."""
    if alone := "manifest.json" in found:  # an export, whose parents lie elsewhere
        found = {f"export/{name}": file for name, file in found.items()}
    folders = sorted({str(PurePosixPath(name).parent) for name in found if name.endswith("/manifest.json")})
    manifests = {folder: readable(found[f"{folder}/manifest.json"].text) for folder in folders}
    known = {folder: manifest for folder, manifest in manifests.items() if manifest is not None}
    said = {
        folder: "damaged: manifest.json" if manifest is None else _verdict(folder, manifest, found, known, alone)
        for folder, manifest in manifests.items()
    }
    begun = {PurePosixPath(name).parent for name in found if name.endswith("/status.json")}
    begun |= {p.parent for name in found for p in PurePosixPath(name).parents if p.name == "shards"}
    said |= {str(folder): "unfinished" for folder in begun if str(folder) not in said}
    absent = {f"members/{k:03d}" for k in range(_members(known))} - set(said)
    return dict(sorted((said | dict.fromkeys(absent, "missing")).items())) | dict(_beside(found, known))


def _beside(found: Mapping[str, File], known: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Files of the run's folder itself, and what is to be said of each."""
    made = [manifest["beside"] for manifest in known.values() if isinstance(manifest.get("beside"), dict)]
    kept = {str(name): str(digest) for files in made for name, digest in files.items()}
    for name in sorted({name for name in found if "/" not in name and not name.startswith(".")} | set(kept)):
        if name not in found:
            yield name, "damaged: it is not there"
        elif name == NAME:
            yield name, {True: "ok", False: "damaged", None: "ok, without digest"}[whole(found[name].text or "")]
        elif name not in kept:
            yield name, "ok, without digest"
        else:
            yield name, "ok" if same_digest(kept[name], found[name].digest) else "damaged"


def _verdict(
    folder: str, manifest: Mapping[str, Any], found: Mapping[str, File], known: Mapping[str, Any], alone: bool
) -> str:
    """Of one artifact whose manifest can be read; `alone`, where its parents are not here."""
    if manifest["fingerprint"] != fingerprint({key: manifest[key] for key in ("config", "parents")}):
        return "damaged: manifest.json, whose fingerprint is of another config or parents"
    if manifest.get("checksum", checksum(manifest)) != checksum(manifest):
        return "damaged: manifest.json, in which a key was changed"
    below = {name.removeprefix(f"{folder}/"): found[name] for name in found if name.startswith(f"{folder}/")}
    kept = manifest.get("files") or {}
    if lost := [name for name in kept if name not in below]:
        return f"damaged: {', '.join(lost)} missing"
    if changed := [name for name, digest in kept.items() if not same_digest(str(digest), below[name].digest)]:
        return f"damaged: {', '.join(changed)}"
    number = manifest["config"].get("member") if folder.startswith("members/") else None
    if number is not None and folder != f"members/{number:03d}":
        return f"made from other parents: it is member {number}"
    if not alone and (other := list(others(folder, manifest, known))):
        return f"{'out of date' if folder == 'figures' else 'made from other parents'}: {', '.join(other)}"
    bare = [name for name in own_files(below) if name not in kept]
    elsewhere = ", trained elsewhere" if "adopted" in manifest else ""
    return f"ok{elsewhere}, without digest: {', '.join(bare)}" if bare else f"ok{elsewhere}"


def others(folder: str, manifest: Mapping[str, Any], known: Mapping[str, Any]) -> Iterator[str]:
    """Parents that are not those that the manifest names."""
    for parent, wanted in manifest["parents"].items():
        if folder not in _OF_OTHERS and _present(parent, known) != wanted:
            yield parent if _present(parent, known) else f"{parent} missing"
    for member, digest in (manifest.get("read") or {}).items():
        if digest != (known.get(member, {}).get("files") or {}).get("member.safetensors"):
            yield member


def _present(parent: str, known: Mapping[str, Any]) -> str | None:
    """Fingerprint of what lies in a parent's place; None where nothing does."""
    if parent == "members":
        prints = [known.get(f"members/{k:03d}", {}).get("fingerprint") for k in range(_members(known))]
        return fingerprint(prints) if prints and None not in prints else None
    if parent == "data":
        return known.get("codebook", {}).get("config", {}).get("data")
    own = "attribution" if "attribution" in known else "attribution/default"
    place = {"scores": "validation/scores", "attribution": own}.get(parent, parent)
    return known.get(place, {}).get("fingerprint")


def _members(known: Mapping[str, Any]) -> int:
    n = known.get("codebook", {}).get("config", {}).get("n", 0)
    return n if isinstance(n, int) and 0 <= n <= 1024 else 0


def readable(text: str | None) -> dict[str, Any] | None:
    """A manifest by its file's text, if it is one."""
    try:
        content = json.loads(text or "")
    except (ValueError, RecursionError):
        return None
    plain = isinstance(content, dict) and isinstance(content.get("fingerprint"), str)
    return content if plain and all(isinstance(content.get(key), dict) for key in ("config", "parents")) else None
