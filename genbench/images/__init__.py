"""Images on disk to `Samples` and back: folders, zips, npz and npy files, under one strict policy.

A number about images is only as good as the pixels, and decoders are generous: they cut 16 bits to 8, drop an alpha
channel and turn a CMYK file into colours nobody saw. Whatever would change what a picture shows is refused here, with
the name of the file, and nothing is resized. The headers of all files are read before the first pixel is used; pixels
are decoded when a metric asks for them. Zips are never extracted and nothing is unpickled.

A folder and a zip of the same files give the same samples, labels, captions and fingerprint.
"""

from genbench.images.opening import open_images, open_reference, prefetch
from genbench.images.writing import write_captions, write_grid, write_images, write_npz

__all__ = ["open_images", "open_reference", "prefetch", "write_captions", "write_grid", "write_images", "write_npz"]
