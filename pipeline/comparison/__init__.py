"""The comparison of tokenizers: cells, the process that trains one, records, tables, picture."""
