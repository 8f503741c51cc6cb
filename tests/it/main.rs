//! Integration tests: everything that needs sockets, processes or more than one module.

#[cfg(test)]
mod chaos;
#[cfg(test)]
mod facilitator;
#[cfg(test)]
mod scripted;
