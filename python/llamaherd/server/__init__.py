"""An OpenAI-compatible server for one or several models."""

from llamaherd.server.app import create_app
from llamaherd.server.common.settings import ServerSettings
from llamaherd.server.jobs.model_pool import ModelPool, ModelSpec

__all__ = ["ModelPool", "ModelSpec", "ServerSettings", "create_app"]
