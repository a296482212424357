"""Writes the pictures of the gallery that stand in other pages too.

    MPLBACKEND=Agg python docs/gallery_pictures.py [folder]

The folder is docs/figures unless given. Colours are reduced to a dithered palette of 256: a third
of the size, and neither dots nor photographs show it.
"""

import io
import runpy
import sys
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
PICTURES = {  # file: page, and the figure's name in it
    "gradient_flow.png": ("plot_gradient_flow.py", "flows_figure"),
    "colour_transfer.png": ("plot_colour_transfer.py", "pictures_figure"),
}


def write(figure, path):
    """Save a matplotlib figure as a PNG with a palette."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    image = Image.open(buffer).convert("RGB")
    palette = image.quantize(256, Image.Quantize.MAXCOVERAGE)  # keeps white exact
    image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "figures"
    for name, (page, figure) in PICTURES.items():
        write(runpy.run_path(str(HERE / "gallery" / page))[figure], folder / name)
