"""The errors that veilkern raises, beside TypeError and ValueError for wrong arguments."""


class VeilkernError(Exception):
    """Base of every error below."""


class PhotoError(VeilkernError):
    """A photo, or a folder of photos, that cannot be used; the message names the file and the cause."""


class BankError(VeilkernError):
    """A veil file that is truncated, tampered with, of another version or otherwise not what it should be."""


class ModelError(VeilkernError):
    """A face-recognition network that cannot be loaded or whose output is unusable."""


class OutputError(VeilkernError):
    """An output that cannot be written."""


class BackendError(VeilkernError):
    """A backend asked for by name that cannot serve."""
