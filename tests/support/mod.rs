//! What several test files use.

pub(crate) mod test_functions;
