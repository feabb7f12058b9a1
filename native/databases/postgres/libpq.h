// libpq, opened at run time and never linked: the addon loads on hosts without PostgreSQL and can say what is missing.
// Its functions are declared here, and so no header of it is needed to build: they are the same since PostgreSQL 12.
#pragma once

#include <string>

struct pg_conn;
struct pg_result;

namespace walship::postgres {

using PgConnection = ::pg_conn;
using PgResult = ::pg_result;

constexpr int kConnectionOk = 0;
constexpr int kConnectionBad = 1;
constexpr int kPollingFailed = 0;
constexpr int kPollingReading = 1;
constexpr int kPollingOk = 3;
constexpr int kCommandOk = 1;
constexpr int kTuplesOk = 2;
constexpr int kCopyOut = 3;
constexpr int kCopyIn = 4;
constexpr int kFatalError = 7;
constexpr int kCopyBoth = 8;
constexpr int kFieldSqlState = 'C';
constexpr int kFieldPrimaryMessage = 'M';

#define WALSHIP_LIBPQ_FUNCTIONS(X)                                                                          \
  X(connectStart, PQconnectStartParams, PgConnection*, (const char* const*, const char* const*, int))       \
  X(connectPoll, PQconnectPoll, int, (PgConnection*))                                                       \
  X(status, PQstatus, int, (const PgConnection*))                                                           \
  X(errorMessage, PQerrorMessage, char*, (const PgConnection*))                                             \
  X(socket, PQsocket, int, (const PgConnection*))                                                           \
  X(serverVersion, PQserverVersion, int, (const PgConnection*))                                             \
  X(sslInUse, PQsslInUse, int, (PgConnection*))                                                             \
  X(gssInUse, PQgssEncInUse, int, (PgConnection*))                                                          \
  X(finish, PQfinish, void, (PgConnection*))                                                                \
  X(setNonBlocking, PQsetnonblocking, int, (PgConnection*, int))                                            \
  X(sendQuery, PQsendQuery, int, (PgConnection*, const char*))                                              \
  X(consumeInput, PQconsumeInput, int, (PgConnection*))                                                     \
  X(isBusy, PQisBusy, int, (PgConnection*))                                                                 \
  X(getResult, PQgetResult, PgResult*, (PgConnection*))                                                     \
  X(resultStatus, PQresultStatus, int, (const PgResult*))                                                   \
  X(resultError, PQresultErrorMessage, char*, (const PgResult*))                                            \
  X(resultField, PQresultErrorField, char*, (const PgResult*, int))                                         \
  X(rows, PQntuples, int, (const PgResult*))                                                                \
  X(columns, PQnfields, int, (const PgResult*))                                                             \
  X(value, PQgetvalue, char*, (const PgResult*, int, int))                                                  \
  X(valueBytes, PQgetlength, int, (const PgResult*, int, int))                                              \
  X(isNull, PQgetisnull, int, (const PgResult*, int, int))                                                  \
  X(clear, PQclear, void, (PgResult*))                                                                      \
  X(putCopyData, PQputCopyData, int, (PgConnection*, const char*, int))                                     \
  X(putCopyEnd, PQputCopyEnd, int, (PgConnection*, const char*))                                            \
  X(flush, PQflush, int, (PgConnection*))                                                                   \
  X(getCopyData, PQgetCopyData, int, (PgConnection*, char**, int))                                          \
  X(freeMemory, PQfreemem, void, (void*))

struct Libpq {
  std::string problem;  // what to do about it; empty when loaded
#define WALSHIP_LIBPQ_POINTER(name, symbol, result, arguments) result(*name) arguments = nullptr;
  WALSHIP_LIBPQ_FUNCTIONS(WALSHIP_LIBPQ_POINTER)
#undef WALSHIP_LIBPQ_POINTER

  bool loaded() const { return problem.empty(); }
};

constexpr const char* kLibpqFile = "libpq.so.5";

// Opens `file` and looks every function up. The handle is never closed: TLS libraries do not unload.
Libpq loadLibpq(const char* file);
// libpq itself, loaded once.
const Libpq& libpq();

}  // namespace walship::postgres
