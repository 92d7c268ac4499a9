"""Side-by-side measurements of Salver, its ceiling and its peers; see docs/performance.md."""
