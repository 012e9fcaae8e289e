//! The service's jobs and its page, through the binary.

#[expect(dead_code, reason = "the other tests use the rest")]
#[path = "../cli/common.rs"]
mod common;
mod faults;
mod http;
mod killed;
mod page;
mod places;
mod service;
mod stores;
mod submitted;
