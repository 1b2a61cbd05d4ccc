"""The docs site: `make docs` builds it into build/docs. Nothing in it comes from the net, when built or when read."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))
# Of this process and of the kernels that run the tutorials: one thread, no waiting in circles (veilkern/threads.py),
# no colours, and veilkern from this checkout.
os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "NO_COLOR": "1", "TERM": "dumb"}
os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
# What kernels keep beside them goes when the build ends.
_scratch = tempfile.mkdtemp(prefix="docs")
atexit.register(shutil.rmtree, _scratch, ignore_errors=True)
os.environ |= {"IPYTHONDIR": f"{_scratch}/ipython", "JUPYTER_RUNTIME_DIR": _scratch}

import veilkern  # noqa: E402

project = "veilkern"
author = "the authors of veilkern"
copyright = author
version = release = veilkern.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "links", "docstrings", "commands", "figures"]
exclude_patterns = ["_ext", "_static", "paper"]  # paper/: pictures of paper.md
root_doc = "index"
html_theme = "furo"
html_title = f"veilkern {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
smartquotes = False  # what is written is what is shown
language = "en"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3  # `#which-scheme`, as on the forge
myst_links_external_new_tab = False

# A page shows what this code has just done: tutorials are run in every build, and an error in one ends it.
nb_execution_mode = "force"
nb_execution_timeout = 300  # seconds of a cell, on a machine that does other work beside
nb_execution_raise_on_error = True
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
add_module_names = False
toc_object_entries_show_parents = "hide"

nitpicky = True
# Types in signatures that have no page here, by the reason why. All else that names nothing is an error.
nitpick_ignore_regex = [
    # Of other projects: their inventories (intersphinx) would have to come from the net.
    ("py:.*", r"(torch|nn|np|numpy|types|typing|collections|pathlib|os|typer)\..*"),
    # The standard library's and torch's, by the bare names that the annotations of this library use.
    ("py:class", "Any|Callable|Iterable|Iterator|Sequence|Mapping|Collection|Path|Tensor|PathLike|ABC|Module|Protocol"),
    # Types of the implementation: unions of arrays, rows, keys and progress bars, explained in prose, and what only
    # functions of the library give and take.
    ("py:class", r"(.*\.)?(Photos|Rows|MasterKeys|ShowProgress|PhotosOfPeople|Subjects|State|Features|Detector)"),
    ("py:class", r"veilkern\..*\.(Templates|Tower|GalleryPhotos|Shape)"),
]
linkcheck_timeout = 20
linkcheck_anchors = False
