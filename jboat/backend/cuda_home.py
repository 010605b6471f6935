"""Make one CUDA home, in the shape that Jittor wants, out of a toolkit and NVIDIA's wheels, by links.

* ``bin`` and ``nvvm`` lead to the toolkit's folders. They are links to folders, since Jittor resolves a link to
  ``nvcc`` itself and would leave the home.
* ``include`` has the headers of the toolkit and the wheels, and in front of those that Jittor cannot use as they are
  the ones of jboat's own folder ``cuda_headers``, which find what they replace in ``include/shadowed``.
* ``lib64`` has each library under its own name and without a version, and cuDNN 9 under the names that cuDNN 8 had.

The home lies in Jittor's cache, named after what it is made of, and appears there complete or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
import re
import shutil
import tempfile
import zlib

from jboat.backend import cuda_toolkit
from jboat.backend.cuda_toolkit import CudaToolkit, header_folders, library_folders

OWN_HEADERS = Path(__file__).with_name("cuda_headers")
_LIBRARY = re.compile(r"lib\w+\.(so(\.[\d.]+)?|a)")
_OF_CUDA = re.compile(r"lib(cuda|cublas|curand|cufft|cusparse|cusolver|cudnn|cupti|culibos|nv[A-Zrvt]|nvblas)")
_LIST = "contents.txt"
_LISTED = ("", "include", "include/shadowed", "lib64")  # the folders with what tells of a lost source
_CUDNN_8_NAMES = ("ops_infer", "ops_train", "cnn_infer", "cnn_train")


def prepared(toolkit: CudaToolkit, cache: Path) -> CudaToolkit:
    """The toolkit as Jittor can use it, with a home of links where it needs one.

    A complete home of the same parts is kept. One with a link that leads nowhere, or is gone, is made anew.

    Args:
        toolkit: what :func:`jboat.backend.cuda_toolkit.find` found.
        cache: Jittor's folder.

    Raises:
        OSError: if the links cannot be written.
    """
    if not toolkit.usable or not toolkit.folders:
        return toolkit
    home = cache / "jboat" / f"cuda-{_key(toolkit)}"
    if not _is_complete(home):
        _make(home, planned(toolkit))
    return toolkit._replace(nvcc=home / "bin" / "nvcc")


def _key(toolkit: CudaToolkit) -> str:
    """A name for what the home is made of, which changes when a part is replaced."""
    made_of = [str(folder) for folder in toolkit.folders]
    for name, path in sorted(toolkit.parts.items()):
        made_of.append(f"{name} {path} {path.stat().st_size} {path.stat().st_mtime_ns}")
    made_of += [path.read_text() for path in sorted(OWN_HEADERS.rglob("*.*h"))]
    return f"{zlib.crc32(chr(10).join(made_of).encode()):08x}"


def planned(toolkit: CudaToolkit) -> dict[str, Path]:
    """Where each link of the home leads, by its path in the home."""
    root, links = toolkit.folders[0], {}
    links["bin"] = root / "bin"
    cicc = toolkit.parts.get("NVVM")
    if cicc is not None and cicc.parent.parent != root:
        links["nvvm"] = cicc.parent.parent
    headers = [place for folder in toolkit.folders for place in header_folders(folder)]
    for name, destination in _merged([OWN_HEADERS, *headers]):
        if not name.startswith("cudnn"):
            links[f"include/{name}"] = destination
    for path in OWN_HEADERS.rglob("*.*h"):
        name = str(path.relative_to(OWN_HEADERS))
        original = cuda_toolkit.header(toolkit.folders, name)
        if original is not None and not name.startswith("cudnn"):
            links[f"include/shadowed/{name}"] = original
    if toolkit.cudnn_headers is not None:
        for path in toolkit.cudnn_headers.glob("cudnn*.h"):
            links[f"include/{path.name}"] = path
        links["include/shadowed/cudnn.h"] = links["include/cudnn.h"]
        links["include/cudnn.h"] = OWN_HEADERS / "cudnn.h"
    for name, destination in _named_libraries(toolkit).items():
        links[f"lib64/{name}"] = destination
    return {name: destination for name, destination in links.items() if destination.exists()}


def _merged(folders: list[Path], within: str = "") -> Iterator[tuple[str, Path]]:
    """Links to entries of several folders, the first of equal names; a folder that several have is merged."""
    entries: dict[str, list[Path]] = {}
    for folder in folders:
        for path in sorted(folder.iterdir()):
            if path.name not in ("__init__.py", "__pycache__"):
                entries.setdefault(path.name, []).append(path)
    for name, paths in entries.items():
        if len(paths) > 1 and paths[0].is_dir():
            yield from _merged([path for path in paths if path.is_dir()], f"{within}{name}/")
        else:
            yield f"{within}{name}", paths[0]


def _named_libraries(toolkit: CudaToolkit) -> dict[str, Path]:
    found: dict[str, Path] = {}
    near = [place for folder in toolkit.folders for place in library_folders(folder)]
    for folder in [*near, *map(Path, cuda_toolkit.SYSTEM_LIBRARIES)]:
        for path in sorted(folder.glob("lib*")):
            if _LIBRARY.fullmatch(path.name) and _OF_CUDA.match(path.name) and not path.name.startswith("libcudnn"):
                _add(found, path)
    if "cudnn" in toolkit.parts:
        for path in sorted(toolkit.parts["cudnn"].parent.glob("libcudnn*.so*")):  # never two generations in one home
            _add(found, path)
    for name in _CUDNN_8_NAMES:
        of_version_9 = found.get(f"libcudnn_{name.split('_')[0]}.so")
        if of_version_9 is not None:
            found.setdefault(f"libcudnn_{name}.so", of_version_9)
    return found


def _add(found: dict[str, Path], library: Path) -> None:
    if library.exists():
        found.setdefault(library.name, library)
        found.setdefault(re.sub(r"\.so\..*", ".so", library.name), library)


def _is_complete(home: Path) -> bool:
    """Whether the home has what its list names, and no link of it leads nowhere.

    Toolkits go, and what clears disks for scratch takes files and links one by one.
    """
    try:
        names = (home / _LIST).read_text().splitlines()
    except OSError:
        return False
    return all((home / name).exists() for name in names)


def _make(home: Path, links: dict[str, Path]) -> None:
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent, prefix="cuda-") as scratch:
        fresh = Path(scratch) / "home"
        for name, destination in links.items():
            link = fresh / name
            link.parent.mkdir(parents=True, exist_ok=True)
            if destination.is_relative_to(OWN_HEADERS):
                _copy(destination, link)  # a link into this environment would lead nowhere one day
            else:
                link.symlink_to(destination.resolve())
        folders = [fresh / name for name in _LISTED if (fresh / name).is_dir()]
        listed = [path.relative_to(fresh) for folder in folders for path in sorted(folder.iterdir())]
        (fresh / _LIST).write_text("\n".join(map(str, listed)))
        if home.is_dir() and not _is_complete(home):
            home.rename(Path(scratch) / "broken")
        try:
            fresh.rename(home)
        except OSError:
            if not _is_complete(home):  # else another process was as quick
                raise


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)
