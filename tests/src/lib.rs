//! Test servers, the case runner, oracles and generators.
