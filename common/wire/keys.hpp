// Who may connect: CURVE key pairs in files, the list of authorised keys, and the ZAP handler that enforces it.
//
//   DATA/keys/NAME.key     lines "public Z85" and "secret Z85", optionally "server Z85" (whom to trust); mode 0600
//   DATA/keys/NAME.pub     one line: the public key
//   DATA/keys/authorized   lines "PUBLICKEY ROLE NAME"; empty lines and lines that begin with '#' do not count
//
// Without a running ZAP handler libzmq lets every key in. So: make one zap_handler per context before any socket with
// curve_server is bound, and call self_test().
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/error.hpp"
#include "common/wire/socket.hpp"

namespace troupe::wire {

// -- key pairs ----------------------------------------------------------------------------------------------------

// Z85 text of 40 characters each. Never log `secret_key`.
struct key_pair {
  std::string public_key;
  std::string secret_key;
  std::string server_key;  // from the "server" line; empty when there is none
};

[[nodiscard]] result<key_pair> make_key_pair();
[[nodiscard]] bool is_valid_key(std::string_view z85);

// Writes NAME.key (0600) and NAME.pub into `folder`; conflict when NAME.key exists.
[[nodiscard]] result<void> save_key_pair(const std::filesystem::path& folder, std::string_view name,
                                         const key_pair& keys);
// permission_denied when group or others can read the file; invalid_request when it is no key file, or its halves do
// not belong together; not_found.
[[nodiscard]] result<key_pair> load_key_pair(const std::filesystem::path& secret_file);
[[nodiscard]] result<std::string> load_public_key(const std::filesystem::path& public_file);

// -- who is authorised --------------------------------------------------------------------------------------------

enum class peer_role : std::uint8_t { coordinator = 1, expert = 2, router = 3, client = 4, admin = 5 };
[[nodiscard]] std::string_view to_string(peer_role role);
[[nodiscard]] std::optional<peer_role> parse_peer_role(std::string_view text);

struct authorized_key {
  std::string public_key;
  peer_role role{peer_role::client};
  std::string name;
  friend bool operator==(const authorized_key&, const authorized_key&) = default;
};

// "role:name": what received::user_id holds for a peer with this key.
[[nodiscard]] std::string user_id_of(const authorized_key& key);
// nullopt when the text is no "role:name".
[[nodiscard]] std::optional<peer_role> role_of_user(std::string_view user_id);

// invalid_request with the line's number.
[[nodiscard]] result<std::vector<authorized_key>> parse_authorized(std::string_view text);
// permission_denied when others than the owner can write it; not_found.
[[nodiscard]] result<std::vector<authorized_key>> load_authorized(const std::filesystem::path& file);
// Adds a line unless the key is there (then its role and name must be the same, else conflict). Writes a new file and
// renames it, so that readers see the old or the new list.
[[nodiscard]] result<void> add_authorized(const std::filesystem::path& file, const authorized_key& key);

// Takes the lines of that name out, in the same way. not_found when there is none.
[[nodiscard]] result<void> remove_authorized(const std::filesystem::path& file, std::string_view name);

// What curve_server::zap_domain says: peers of these roles are let in.
[[nodiscard]] std::string zap_domain(std::span<const peer_role> allowed);

// -- ZAP ----------------------------------------------------------------------------------------------------------

struct zap_refusal {
  std::string address;  // of the peer
  std::string public_key;
  std::string reason;
};

// Answers libzmq's question "may this key in?" on a thread of its own, for all sockets of one context. The file is
// read again when it changes; a file that has become unreadable lets nobody new in that it did not name before.
// When the thread fails, the process exits: libzmq would accept every key from then on.
class zap_handler {
 public:
  // `on_refusal` is called on the handler's thread for each refused peer; it must not block. May be empty.
  [[nodiscard]] static result<std::unique_ptr<zap_handler>> start(std::shared_ptr<context> ctx,
                                                                  std::filesystem::path authorized_file,
                                                                  std::function<void(const zap_refusal&)> on_refusal);
  // Stops the thread. @pre all sockets with curve_server of the context are closed.
  ~zap_handler();
  zap_handler(const zap_handler&) = delete;
  zap_handler& operator=(const zap_handler&) = delete;

  // Since start. Any thread.
  [[nodiscard]] std::uint64_t refusals() const;
  // Connects with a fresh random key over loopback and expects to be refused. internal when it was let in, timeout
  // when nothing happened within limits::handshake_timeout.
  [[nodiscard]] result<void> self_test();

 private:
  struct state;
  explicit zap_handler(std::unique_ptr<state> s);
  std::unique_ptr<state> state_;
};

}  // namespace troupe::wire
