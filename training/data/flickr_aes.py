"""FLICKR-AES (Ren et al. 2017) as it is released: 40,000 photographs rated by 210 people, 1 to 5.

::

    FLICKR-AES_image_labeled_by_each_worker.csv    worker, imagePair, score
    40K/farm1_<number>_<secret>_b.jpg               the pictures

The names of the columns have a space after each comma; in some copies the values have one as well. The mean
scores of ``FLICKR-AES_image_score.txt`` are not read: they hold the ratings of the test users.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from piaa_sdk.rating_scale import RatingScale
from training.data.dataset import Dataset, DatasetReport
from training.data.ratings import RatingCollector
from training.data.reading import find_label_file, find_picture_folders, image_name, parse_rating, read_rows

if TYPE_CHECKING:
    from pathlib import Path

NAME = "flickr-aes"
SCALE = RatingScale(1, 5)
LABEL_FILES = ("FLICKR-AES_image_labeled_by_each_worker.csv", "image_labeled_by_each_worker.csv")
PICTURE_FOLDERS = ("40K",)


def read_flickr_aes(folder: Path) -> Dataset:
    """Read FLICKR-AES.

    Args:
        folder: Holds the label file and the folder ``40K`` with the pictures.

    Raises:
        RatingError: The label file or the folder of pictures is missing, a line cannot be understood, or no
            rating is left.
    """
    source = find_label_file(folder, LABEL_FILES)
    pictures = find_picture_folders(folder, PICTURE_FOLDERS)
    collected = RatingCollector(folder, source)
    for line, (user, name, text) in read_rows(source, ("worker", "imagePair", "score")):
        place = f"{source}, line {line}"
        file_name = image_name(name, place)
        rating = parse_rating(text, SCALE, place)
        home = next((home for home, names in pictures.items() if file_name in names), None)
        if home is None:
            collected.add_absent(user)
        else:
            collected.add(user, f"{home}/{file_name}", rating)
    table = collected.table()
    return Dataset(NAME, table, SCALE, collected.raw_counts, DatasetReport.of(NAME, table))
