//! The service as clients meet it: on a loopback socket, with requests that a client library makes, and with bytes that
//! none would send.
#![cfg(test)]

mod common;
mod direct;
mod operate;
