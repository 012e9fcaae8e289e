//! The command line as a person meets it: small generated files go in, and exit codes, sentences and files are looked at.
//! `common` makes the files; the device is the CPU, except where a real checkpoint goes through every adapter.
#![cfg(test)]

mod bad_input;
mod bad_places;
mod browser;
mod common;
mod compare;
mod containers;
mod damage;
mod deploy;
mod devices;
mod faults;
mod gguf;
mod gguf_package;
mod hostile_layouts;
mod layouts;
mod memory;
mod output;
mod real_checkpoint;
mod report;
mod resume;
mod round_trip;
mod selection;
mod service;
mod shards;
mod tasks;
