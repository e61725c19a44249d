"""Images on disk to `Samples` and back: folders, zips, tars, parquet files, LMDBs, npz and npy files, under one strict
policy.

A number about images is only as good as the pixels, and decoders are generous: they cut 16 bits to 8, drop an alpha
channel and turn a CMYK file into colours nobody saw. Whatever would change what a picture shows is refused here, with
the name of the file, and nothing is resized. Every file is read once when a set is opened: its header is judged and its
bytes are hashed. Pixels are decoded when a metric asks for them. No archive is extracted and nothing is unpickled.

A folder, a zip and a tar of the same files give the same samples, labels, captions and fingerprint.
"""

from genbench.images.opening import open_images, open_reference, prefetch
from genbench.images.places import names_files
from genbench.images.strips import read_strip, write_strip
from genbench.images.surveys import watched
from genbench.images.writing import is_picture, write_captions, write_grid, write_images, write_npz

__all__ = [
    "is_picture",
    "names_files",
    "open_images",
    "open_reference",
    "prefetch",
    "read_strip",
    "watched",
    "write_captions",
    "write_grid",
    "write_images",
    "write_npz",
    "write_strip",
]
