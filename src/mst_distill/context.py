"""Kedro's context with the project's catalog, also outside of a run, as in a notebook."""

from __future__ import annotations

from typing import Any

from kedro.framework.context import CatalogCommandsMixin, KedroContext
from kedro.framework.context.context import compose_classes
from kedro.io import CatalogProtocol, DataCatalog

from mst_distill.datasets.catalog import ArtifactCatalog


class ProjectContext(KedroContext):
    """The context of a session.

    A session of Kedro uses the catalog class of the settings for a run only. Everywhere else, for
    example after ``%reload_kedro`` in a notebook, it would use its own, which verifies nothing.
    """

    def _get_catalog(
        self, catalog_class: type = DataCatalog, *arguments: Any, **options: Any
    ) -> CatalogProtocol[Any, Any]:
        if catalog_class is DataCatalog:
            catalog_class = compose_classes(ArtifactCatalog, CatalogCommandsMixin)
        return super()._get_catalog(catalog_class, *arguments, **options)
