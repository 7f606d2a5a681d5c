"""What many nights found, as series: where they moved, and what changed with them."""

from optimizer.history.gathering import BundleFolders, nights_of_files, nights_of_name
from optimizer.history.history import History, histories_of

__all__ = ["BundleFolders", "History", "histories_of", "nights_of_files", "nights_of_name"]
