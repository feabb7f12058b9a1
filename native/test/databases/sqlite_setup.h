#pragma once

namespace walship::test {

// Before any other use of SQLite in a test.
void setUpSqlite();

}  // namespace walship::test
