"""Pictures that a browser sends: bytes, held against bounds before they are decoded, and never a path."""

from __future__ import annotations

import io

from PIL import Image

from benchmark.data.pictures import FORMATS, LARGEST_RATIO, LONGEST_SIDE
from benchmark.errors import UserError

LARGEST_UPLOAD = 20 * 2**20
MOST_PIXELS = 50_000_000


def decoded_upload(content: bytes) -> Image.Image:
    """The picture in these bytes, decoded whole.

    Raises UserError where they are too many, are no picture, or would become too large a one: a few kilobytes may
    declare gigabytes of pixels.
    """
    if len(content) > LARGEST_UPLOAD:
        raise UserError(f"the picture has {len(content):,} bytes; at most {LARGEST_UPLOAD:,} are taken")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            short, long = sorted(image.size)
            if short * long > MOST_PIXELS or long > LONGEST_SIDE or long > LARGEST_RATIO * short:
                raise UserError(f"the picture has {image.width:,} x {image.height:,} pixels: refused as too large")
            image.load()
            return image
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        raise UserError("the picture declares more pixels than any has: refused as too large") from error
    except Exception as error:  # damaged files make Pillow raise almost anything
        raise UserError("the file is no picture that can be read, or is damaged; send another one") from error
