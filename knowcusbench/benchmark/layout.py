"""File and folder names of a release directory.

concept_image/<concept>/*          reference images
concept_image/dataset.json         class nouns and generation prompts
knowledge_data/<concept>.json      knowledge items
visual_ckpt/<concept>/             optional: a stage-1 LoRA
"""

IMAGE_FOLDER = "concept_image"
DATASET_FILE = "concept_image/dataset.json"
KNOWLEDGE_FOLDER = "knowledge_data"
CHECKPOINT_FOLDER = "visual_ckpt"

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""Suffixes, in any case, of reference images in a concept's folder. Other files are ignored, with a note."""

UNREAD_SUFFIXES = frozenset(
    {".arw", ".avif", ".cr2", ".cr3", ".dng", ".exr", ".hdr", ".heic", ".heics", ".heif", ".hif", ".ico", ".j2k"}
    | {".jp2", ".jpf", ".jpx", ".jxl", ".nef", ".orf", ".pbm", ".pgm", ".ppm", ".psd", ".raf", ".raw", ".rw2", ".tga"}
)
"""Suffixes of images in formats that are not read. Such a file is a fault: its owner expects it to count."""

CONVERT = "a picture in a format that isn't read; convert it to PNG or JPEG, or move it elsewhere"
