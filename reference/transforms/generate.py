"""Writes the fixtures of crates/data/tests/golden.rs: small images of every format, and what PIL and
torchvision make of them.

    python generate.py        (needs torch, torchvision, pillow, safetensors, numpy)

Beside this script: images/ (the files to decode), cases.json (the parameters), expected.safetensors
(the results: u8 pixels [h, w, 3], f32 tensors [h, w, 3]). The synthetic pictures are seeded; the versions
used are recorded in cases.json.
"""

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL
import torch
import torchvision
import torchvision.transforms as T
import torchvision.transforms.functional as F
from PIL import Image, ImageOps
from safetensors.numpy import save_file

HERE = Path(__file__).parent
IMAGES = HERE / "images"
IMAGES.mkdir(exist_ok=True)
rng = np.random.default_rng(0)
expected = {}


def picture(width, height, noise=12):
    """A smooth picture with edges, colours and a little noise."""
    y, x = np.mgrid[0:height, 0:width] / np.array([height, width]).reshape(2, 1, 1)
    rgb = np.stack([255 * x, 255 * (1 - y), 127 + 127 * np.sin(9 * x * y + 3 * y)], axis=-1)
    rgb[height // 4 : height // 2, width // 3 : width // 2] = [250, 30, 40]
    rgb[(x - 0.7) ** 2 + (y - 0.6) ** 2 < 0.03] = [20, 60, 230]
    return np.clip(rgb + rng.normal(0, noise, rgb.shape), 0, 255).astype(np.uint8)


def rgb_of(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))


def add(name, data, pixels=None):
    """A file to decode; what PIL gives unless `pixels` says otherwise."""
    (IMAGES / name).write_bytes(data)
    expected[f"decode/{name}"] = np.ascontiguousarray(rgb_of(data) if pixels is None else pixels)


def save(name, image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    add(name, buffer.getvalue())


def png(width, height, depth, color_type, rows):
    """A PNG by hand, for what PIL does not write."""
    chunk = lambda kind, body: struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


# JPEG
photo = Image.fromarray(picture(29, 21))
for name, subsampling in [("444", 0), ("422", 1), ("420", 2)]:
    save(f"jpeg_{name}.jpg", photo, "JPEG", quality=88, subsampling=subsampling)
save("jpeg_progressive.jpg", photo, "JPEG", quality=80, progressive=True)
save("jpeg_restart.jpg", photo, "JPEG", quality=80, restart_marker_blocks=2)
save("jpeg_grey.jpg", photo.convert("L"), "JPEG", quality=85)
save("jpeg_cmyk.jpg", photo.convert("CMYK"), "JPEG", quality=85)
save("jpeg_rgb.jpg", photo, "JPEG", quality=85, keep_rgb=True)
for orientation in range(1, 9):
    small = Image.fromarray(picture(7, 5, 0))
    save(f"exif_{orientation}.png", small, "PNG", exif=exif(orientation))
save("exif_6.jpg", photo, "JPEG", quality=85, exif=exif(6))
save("exif_8.webp", photo, "WEBP", lossless=True, exif=exif(8))
with open(IMAGES / "jpeg_444.jpg", "rb") as f:
    add("jpeg_named_wrongly.png", f.read())

# PNG
save("png_rgb.png", photo, "PNG")
save("png_grey.png", photo.convert("L"), "PNG")
save("png_bits.png", photo.convert("1"), "PNG")
save("png_palette.png", photo.quantize(16), "PNG")
save("png_palette_transparent.png", photo.quantize(8), "PNG", transparency=3)
alpha = Image.fromarray(rng.integers(0, 256, (21, 29), dtype=np.uint8))
rgba = photo.copy()
rgba.putalpha(alpha)
save("png_rgba.png", rgba, "PNG")
save("png_grey_alpha.png", rgba.convert("LA"), "PNG")
wide = rng.integers(0, 65536, (9, 11, 3), dtype=np.uint16)
add("png_rgb16.png", png(11, 9, 16, 2, [row.astype(">u2").tobytes() for row in wide]))
grey16 = np.repeat((wide[..., :1] >> 8).astype(np.uint8), 3, axis=-1)
# PIL clips 16-bit grey at 255; Regraft keeps the high byte, as both do for colours.
add("png_grey16.png", png(11, 9, 16, 0, [row[:, 0].astype(">u2").tobytes() for row in wide]), grey16)

# The others
save("gif_palette.gif", photo.quantize(32), "GIF")
frames = [photo.quantize(16), ImageOps.mirror(photo).quantize(16)]
save("gif_animated.gif", frames[0], "GIF", save_all=True, append_images=frames[1:], duration=100)
save("gif_transparent.gif", photo.quantize(16), "GIF", transparency=5)
save("webp_lossless.webp", photo, "WEBP", lossless=True)
save("webp_lossy.webp", photo, "WEBP", quality=80)
save("webp_alpha.webp", rgba, "WEBP", lossless=True, exact=True)
save("bmp_rgb.bmp", photo, "BMP")
save("bmp_palette.bmp", photo.quantize(16), "BMP")
save("tiff_lzw.tif", photo, "TIFF", compression="tiff_lzw")
save("tiff_grey.tif", photo.convert("L"), "TIFF")
save("pnm_rgb.ppm", photo, "PPM")
save("pnm_grey.pgm", photo.convert("L"), "PPM")
save("pnm_bits.pbm", photo.convert("1"), "PPM")
add("pnm_plain.ppm", b"P3 # a comment\n2 2 255\n0 1 2 3 4 5\n253 254 255 9 8 7\n")
add("pnm_maxval_100.pgm", b"P5 11 1 100\n" + bytes(range(0, 101, 10)))

# Transforms
source = Image.fromarray(picture(61, 47, 25))
source.save(IMAGES / "source.png")
cases = {"versions": {"pillow": PIL.__version__, "torch": torch.__version__, "torchvision": torchvision.__version__}}
mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

cases["eval"] = []
for resize, crop in [(32, 24), (33, 24), (47, 47), (60, 44), (20, 28), (30, 34)]:
    image = T.CenterCrop(crop)(T.Resize(resize)(source))
    expected[f"eval/{resize}_{crop}"] = np.array(image)
    cases["eval"].append({"resize": resize, "crop": crop})
tensor = T.Normalize(mean, std)(T.ToTensor()(source))
expected["normalize"] = np.ascontiguousarray(tensor.permute(1, 2, 0).numpy())

cases["crop"] = []
for i, (left, top, width, height) in enumerate([(0, 0, 61, 47), (3, 5, 40, 30), (20, 11, 13, 17), (60, 46, 1, 1), (7, 0, 24, 24)]):
    expected[f"crop/{i}"] = np.array(F.resized_crop(source, top, left, height, width, [24, 24]))
    cases["crop"].append({"left": left, "top": top, "width": width, "height": height})
expected["flip"] = np.array(F.hflip(source))

cases["rotate"] = [-180.0, -90.0, -33.3, -10.0, -0.1, 0.2, 5.0, 45.0, 90.0, 123.456, 180.0]
for i, angle in enumerate(cases["rotate"]):
    expected[f"rotate/{i}"] = np.array(F.rotate(source.crop((0, 0, 23, 16)), angle))
    expected[f"rotate_square/{i}"] = np.array(F.rotate(source.crop((0, 0, 17, 17)), angle))

# Random colours reach more corners of the HSV conversion than a picture does.
colors = rng.integers(0, 256, (28, 28, 3), dtype=np.uint8)
colors[::2] = np.clip(colors[::2, :, :1].astype(int) + rng.integers(-6, 7, (14, 28, 3)), 0, 255)
Image.fromarray(colors).save(IMAGES / "colors.png")
change = {
    "brightness": F.adjust_brightness,
    "contrast": F.adjust_contrast,
    "saturation": F.adjust_saturation,
    "hue": F.adjust_hue,
}
factors = [0.0, 0.37, 0.9, 1.0, 1.15, 1.9]
cases["color"] = [[{name: f}] for name in ("brightness", "contrast", "saturation") for f in factors]
cases["color"] += [[{"hue": f}] for f in (-0.5, -0.31, -0.1, 0.0, 0.003, 0.05, 0.2, 0.5)]
cases["color"] += [
    [{"hue": 0.08}, {"contrast": 0.7}, {"brightness": 1.3}, {"saturation": 0.6}],
    [{"saturation": 1.4}, {"brightness": 0.8}, {"hue": -0.1}, {"contrast": 1.2}],
]
for i, steps in enumerate(cases["color"]):
    image = Image.fromarray(colors)
    for step in steps:
        for name, factor in step.items():
            image = change[name](image, factor)
    expected[f"color/{i}"] = np.array(image)

# All together, in the order of `Augmentation`.
chain = {"crop": {"left": 4, "top": 6, "width": 50, "height": 38}, "flip": True, "angle": 12.5, "jitter": [{"brightness": 1.1}, {"hue": 0.04}]}
image = F.rotate(F.hflip(F.resized_crop(source, 6, 4, 38, 50, [24, 24])), 12.5)
expected["chain"] = np.array(F.adjust_hue(F.adjust_brightness(image, 1.1), 0.04))
cases["chain"] = chain

(HERE / "cases.json").write_text(json.dumps(cases, indent=1) + "\n")
save_file(expected, HERE / "expected.safetensors")
total = sum(path.stat().st_size for path in [*IMAGES.iterdir(), HERE / "cases.json", HERE / "expected.safetensors"])
print(f"{len(expected)} results, {total / 1024:.0f} KiB in all")
