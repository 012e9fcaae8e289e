//! The service as clients meet it: on a loopback socket, with requests that a client library makes, and with bytes that
//! none would send.
#![cfg(test)]

mod closed;
mod common;
mod device;
mod direct;
mod faults;
mod jobs;
mod operate;
mod queue;
