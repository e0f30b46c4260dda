"""One page about one run or many: `runs` reads them, `plots` draws, `page` puts it together. Imports no jax."""
