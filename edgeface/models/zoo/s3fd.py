"""S3FD as published, and its light variant."""

from __future__ import annotations

from edgeface.models.family import families
from edgeface.models.s3fd import load_vgg16, s3fd, s3fd_light
from edgeface.models.s3fd_export import S3FDFamily

families("s3fd")(S3FDFamily(s3fd, load_vgg16))
families("s3fd_light")(S3FDFamily(s3fd_light))
