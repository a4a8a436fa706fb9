"""`from benchmark.exported import load`: the name under which exported files are opened elsewhere."""

from benchmark.interop.exported import Model as Model
from benchmark.interop.exported import load as load
