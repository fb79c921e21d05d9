"""The names of a release directory.

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
"""Files of a concept's folder that are reference images, case aside. Others are passed over, with a note."""

UNREAD_SUFFIXES = frozenset(
    {".arw", ".avif", ".cr2", ".cr3", ".dng", ".exr", ".hdr", ".heic", ".heics", ".heif", ".hif", ".ico", ".j2k"}
    | {".jp2", ".jpf", ".jpx", ".jxl", ".nef", ".orf", ".pbm", ".pgm", ".ppm", ".psd", ".raf", ".raw", ".rw2", ".tga"}
)
"""Pictures of formats that are not read: one is refused, since whoever put it there means it to count."""

CONVERT = "a picture in a format that isn't read; convert it to PNG or JPEG, or move it elsewhere"
