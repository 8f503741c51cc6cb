//! How often: counts that fit into `make test`, and the full ones of `make soak`.

/// `soak` when `X402_SOAK=1` asks for the full counts, else `normal`.
pub(crate) fn count(normal: usize, soak: usize) -> usize {
    let full = std::env::var_os("X402_SOAK").is_some_and(|value| value == "1");
    if full { soak } else { normal }
}
