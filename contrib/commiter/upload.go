package commiter

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/jlaffaye/ftp"
	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// uploadLimit bounds the upload of one file.
const uploadLimit = time.Minute

// implicitTLS is the port at which FTP servers speak TLS from the first byte.
const implicitTLS = "990"

// login is how an upload proves who it is.
type login struct{ passwordFile, keyFile, knownHosts, caFile string }

// target is where files are uploaded to.
type target struct {
	scheme, host, port, user, base string
	login
}

// parseUpload parses the URL of --ftp; nil for an empty one.
func parseUpload(text string, l login) (*target, error) {
	if text == "" {
		if l != (login{}) {
			return nil, errors.New("cannot use --ftp-password-file, --ftp-key-file, --ftp-known-hosts or --ftp-ca-file without --ftp")
		}
		return nil, nil
	}
	u, err := url.Parse(text)
	if err != nil {
		return nil, errors.New("cannot use --ftp: it is no URL such as sftp://backup@files.example/k8sm") // the error has the URL, and that may have a password
	}
	if _, has := u.User.Password(); has {
		return nil, errors.New("cannot use --ftp with a password in it, which everybody on this machine could read: write it to a file for --ftp-password-file")
	}
	ports := map[string]string{"ftp": "21", "ftps": "21", "sftp": "22"}
	if ports[u.Scheme] == "" || u.Hostname() == "" || u.RawQuery+u.Fragment+u.Opaque != "" {
		return nil, fmt.Errorf("cannot use --ftp=%s: give ftp://, ftps:// or sftp://, and a host, such as sftp://backup@files.example/k8sm", text)
	}
	t := &target{scheme: u.Scheme, host: u.Hostname(), port: u.Port(), user: u.User.Username(), base: path.Clean("/" + u.Path), login: l}
	if t.port == "" {
		t.port = ports[u.Scheme]
	}
	switch {
	case strings.ContainsAny(t.base+t.user, "\r\n\x00"):
		return nil, errors.New("cannot use --ftp: it has a line break")
	case t.scheme == "sftp" && (t.user == "" || l.passwordFile+l.keyFile == ""):
		return nil, errors.New("cannot use --ftp=sftp:// without a user in it and --ftp-key-file or --ftp-password-file")
	case t.scheme != "sftp" && l.keyFile+l.knownHosts != "":
		return nil, errors.New("cannot use --ftp-key-file or --ftp-known-hosts but with --ftp=sftp://")
	case t.scheme != "ftps" && l.caFile != "":
		return nil, errors.New("cannot use --ftp-ca-file but with --ftp=ftps://")
	case t.scheme != "sftp" && t.user != "" && l.passwordFile == "":
		return nil, errors.New("cannot use --ftp with a user but without --ftp-password-file")
	}
	return t, nil
}

func (t *target) String() string { return t.scheme + "://" + net.JoinHostPort(t.host, t.port) }

// path is the path on the server of a file in a folder.
func (t *target) path(folder, name string) string { return path.Join(t.base, folder, name) }

// put uploads a file into a folder, which is made if it is missing. The file appears with all its text: it is renamed at the end.
func (t *target) put(ctx context.Context, folder, name string, text []byte) error {
	ctx, cancel := context.WithTimeout(ctx, uploadLimit)
	defer cancel()
	if t.scheme == "sftp" {
		return t.putSFTP(ctx, folder, name, text)
	}
	return t.putFTP(ctx, folder, name, text)
}

// password returns the text of the password file; "" without one.
func (t *target) password() (string, error) {
	if t.passwordFile == "" {
		return "", nil
	}
	text, err := os.ReadFile(t.passwordFile)
	if err != nil {
		return "", fmt.Errorf("cannot read --ftp-password-file: %w", err)
	}
	return strings.TrimRight(string(text), "\r\n"), nil
}

// dial connects; the connection ends with ctx.
func dial(ctx context.Context, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	if end, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(end); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
	}
	return conn, nil
}

func (t *target) putFTP(ctx context.Context, folder, name string, text []byte) (err error) {
	user, password := "anonymous", "anonymous"
	if t.user != "" {
		user = t.user
		if password, err = t.password(); err != nil {
			return err
		}
	}
	options := []ftp.DialOption{ftp.DialWithContext(ctx)}
	var secure *tls.Config
	if t.scheme == "ftps" {
		if secure, err = t.tls(); err != nil {
			return err
		}
		if t.port == implicitTLS {
			options = append(options, ftp.DialWithTLS(secure))
		} else {
			options = append(options, ftp.DialWithExplicitTLS(secure))
		}
	}
	control := true
	options = append(options, ftp.DialWithDialFunc(func(_, address string) (net.Conn, error) {
		conn, err := dial(ctx, address)
		if err == nil && secure != nil && (!control || t.port == implicitTLS) {
			conn = tls.Client(conn, secure)
		}
		control = false
		return conn, err
	}))
	server, err := ftp.Dial(net.JoinHostPort(t.host, t.port), options...)
	if err != nil {
		return err
	}
	defer func() { _ = server.Quit() }() // the file is there, or the error says why not
	if err := server.Login(user, password); err != nil {
		return fmt.Errorf("cannot log in: %w", err)
	}
	at := "/"
	for part := range strings.SplitSeq(strings.Trim(path.Join(t.base, folder), "/"), "/") {
		at = path.Join(at, part)
		if err := server.MakeDir(at); err != nil && !unavailable(err) { // which is there, or STOR says so
			return fmt.Errorf("cannot make %s: %w", at, err)
		}
	}
	whole := t.path(folder, name)
	if err := server.Stor(whole+".part", bytes.NewReader(text)); err != nil {
		return fmt.Errorf("cannot store it: %w", err)
	}
	if err := server.Rename(whole+".part", whole); err != nil {
		return fmt.Errorf("cannot give it its name: %w", err)
	}
	return nil
}

// unavailable reports whether an FTP server answered 550, as it does to MKD if the folder exists.
func unavailable(err error) bool {
	var answer *textproto.Error
	return errors.As(err, &answer) && answer.Code == ftp.StatusFileUnavailable
}

func (t *target) tls() (*tls.Config, error) {
	// Servers may want the session of the control connection on the data connection.
	config := &tls.Config{ServerName: t.host, MinVersion: tls.VersionTLS12, ClientSessionCache: tls.NewLRUClientSessionCache(4)}
	if t.caFile == "" {
		return config, nil
	}
	pem, err := os.ReadFile(t.caFile)
	if err != nil {
		return nil, fmt.Errorf("cannot read --ftp-ca-file: %w", err)
	}
	config.RootCAs = x509.NewCertPool()
	if !config.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("cannot use --ftp-ca-file=%s: it has no certificate", t.caFile)
	}
	return config, nil
}

func (t *target) putSFTP(ctx context.Context, folder, name string, text []byte) (err error) {
	config, err := t.ssh()
	if err != nil {
		return err
	}
	address := net.JoinHostPort(t.host, t.port)
	conn, err := dial(ctx, address)
	if err != nil {
		return err
	}
	defer conn.Close()
	transport, channels, requests, err := ssh.NewClientConn(conn, address, config)
	if err != nil {
		return fmt.Errorf("cannot log in: %w", err)
	}
	client := ssh.NewClient(transport, channels, requests)
	defer client.Close()
	server, err := sftp.NewClient(client)
	if err != nil {
		return fmt.Errorf("cannot start SFTP: %w", err)
	}
	defer server.Close()
	if err := server.MkdirAll(path.Join(t.base, folder)); err != nil {
		return fmt.Errorf("cannot make %s: %w", path.Join(t.base, folder), err)
	}
	whole := t.path(folder, name)
	f, err := server.Create(whole + ".part")
	if err != nil {
		return fmt.Errorf("cannot store it: %w", err)
	}
	_, err = f.Write(text)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("cannot store it: %w", err)
	}
	if err := server.PosixRename(whole+".part", whole); err != nil {
		return fmt.Errorf("cannot give it its name: %w", err)
	}
	return nil
}

// ssh returns how to log in. The host's key must be known.
func (t *target) ssh() (*ssh.ClientConfig, error) {
	config := &ssh.ClientConfig{User: t.user, Timeout: uploadLimit}
	if t.keyFile != "" {
		text, err := os.ReadFile(t.keyFile)
		if err != nil {
			return nil, fmt.Errorf("cannot read --ftp-key-file: %w", err)
		}
		key, err := ssh.ParsePrivateKey(text)
		if err != nil {
			return nil, fmt.Errorf("cannot use --ftp-key-file=%s: %w", t.keyFile, err)
		}
		config.Auth = append(config.Auth, ssh.PublicKeys(key))
	}
	if t.passwordFile != "" {
		password, err := t.password()
		if err != nil {
			return nil, err
		}
		config.Auth = append(config.Auth, ssh.Password(password))
	}
	known := t.knownHosts
	if known == "" {
		known = filepath.Join(home(), ".ssh", "known_hosts")
	}
	check, err := knownhosts.New(known)
	if err != nil {
		return nil, fmt.Errorf("cannot read the keys of hosts (--ftp-known-hosts): %w", err)
	}
	config.HostKeyCallback = check
	return config, nil
}
