//! What certificates and signatures have in common.

use der::DateTime;
use der::asn1::{Any, GeneralizedTime, Null, ObjectIdentifier, UtcTime};
use spki::AlgorithmIdentifierOwned;
use x509_cert::time::Time;

/// The algorithm with the NULL parameters that OpenSSL writes and verifiers expect.
pub(super) fn algorithm(oid: ObjectIdentifier) -> AlgorithmIdentifierOwned {
    AlgorithmIdentifierOwned { oid, parameters: Some(Any::from(Null)) }
}

/// RFC 5280, 4.1.2.5: two digits for the year until 2049, four from then on.
pub(super) fn time(seconds: u64) -> der::Result<Time> {
    let date = DateTime::from_unix_duration(std::time::Duration::from_secs(seconds))?;
    Ok(match UtcTime::from_date_time(date) {
        Ok(time) => Time::UtcTime(time),
        Err(_) => Time::GeneralTime(GeneralizedTime::from_date_time(date)),
    })
}
