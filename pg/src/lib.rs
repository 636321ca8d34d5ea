//! The safe face of PostgreSQL: every `unsafe` of the project that is not an output-plugin callback lives here.
