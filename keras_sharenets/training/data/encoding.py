"""How a picture was stored, from its bytes."""

import io

import PIL.Image
import PIL.JpegImagePlugin


def describe_encoding(data):
    """How an encoded picture was stored, for example "stored as PNG"; losses are named.

    The quality is the one at which Pillow writes the same quantisation tables.
    """
    with PIL.Image.open(io.BytesIO(data)) as picture:
        if picture.format != "JPEG":
            return f"stored as {picture.format}"
        tables = picture.quantization
        sampling = PIL.JpegImagePlugin.get_sampling(picture)
    quality = next((f"quality {q}" for q in range(1, 101) if _jpeg_tables(q) == tables), "unknown quality")
    chroma = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}.get(sampling, "unknown")
    return f"stored as JPEG of {quality} with {chroma} chroma, not the lossless original"


def _jpeg_tables(quality):
    file = io.BytesIO()
    PIL.Image.new("RGB", (8, 8)).save(file, "JPEG", quality=quality)
    return PIL.Image.open(file).quantization
