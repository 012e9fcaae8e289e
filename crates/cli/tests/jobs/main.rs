//! The service's jobs and its page, through the binary.

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
