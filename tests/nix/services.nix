# The systems of tests/system/test_nixos.py, each as files below /etc and links: one with services that people confine,
# which have the settings of NixOS's own modules (/usr is /nix/store there), and pairs for what a rebuild does.
with builtins;
let
  inherit (import ./modules.nix) evalModules;
  units = import ./units.nix;

  # Programs are where the machine has them.
  base = package: {
    systemd.package = "/usr";
    my.wireguard = {
      package = {
        type = "derivation";
        name = "wgns-helpers";
        outPath = package;
      };
      tunnels.demo = {
        address.IPv4 = "10.64.1.1/32";
        address.IPv6 = "fd00:64::1:1/128";
        peer = "O/yWqunnH9gHQkhX0S95my/AiZY81Dn0JiIHKvABc1I="; # public_key(0) in tests/system/guest.py
        endpoint = "203.0.113.1:51820";
        privateKey = "/root/demo.key";
        dns = [ "10.64.0.1" ];
      };
    };
  };

  system =
    package: modules:
    let
      config = evalModules { pkgs.writeTextDir = path: text: { inherit path text; }; } (
        [
          ./nixos.nix
          ../../nix/module.nix
          (base package)
        ]
        ++ modules
      );
      # As the package has it
      ours = name: {
        inherit name;
        value = replaceStrings [ "=netns-" "=wg-" ] [ "=${package}/bin/netns-" "=${package}/bin/wg-" ] (
          readFile (../../systemd + "/${name}")
        );
      };
    in
    {
      inherit package;
      failed = map (a: a.message) (filter (a: !a.assertion) config.assertions);
      units =
        listToAttrs (
          map ours [
            "netns@.service"
            "wg@.service"
            "wg-confined@.service"
          ]
        )
        // units.files config;
      wants = units.wants config;
      etc = mapAttrs (_: file: file.text) config.environment.etc;
      activation = config.system.activationScripts.wgns or "";
    };

  program = "/usr/bin/python3 -P /usr/local/lib/stand_in.py";
  true' = "/usr/bin/true";
  inet = [
    "AF_INET"
    "AF_INET6"
  ];
  local = inet ++ [ "AF_UNIX" ];
  # All as one user, the machine's.
  wanted = settings: {
    wantedBy = [ "multi-user.target" ];
    serviceConfig = {
      User = "seeder";
      ExecStart = program;
    }
    // settings;
  };
  confined = service: service // { wireguardTunnel = "demo"; };

  services = {
    transmission = {
      AmbientCapabilities = "";
      BindPaths = [
        "/var/lib/transmission/.config/transmission-daemon"
        "/var/lib/transmission/Downloads"
        "/run"
        "/var/lib/transmission/.incomplete"
      ];
      BindReadOnlyPaths = [
        "/usr /lib /lib64"
        "/etc"
      ];
      CapabilityBoundingSet = "";
      ExecStartPre = [ "+${true'}" ];
      MountAPIVFS = true;
      NoNewPrivileges = true;
      PrivateMounts = true;
      PrivateNetwork = false;
      PrivateUsers = true;
      ProtectSystem = "strict";
      RestrictAddressFamilies = local;
      RootDirectory = "/run/transmission";
      RootDirectoryStartOnly = true;
      RuntimeDirectory = [ "transmission" ];
      StateDirectory = [
        "transmission"
        "transmission/.config/transmission-daemon"
        "transmission/.incomplete"
        "transmission/Downloads"
        "transmission/watchdir"
      ];
      Type = "notify-reload";
    };
    tor = {
      AmbientCapabilities = [ "" ];
      BindReadOnlyPaths = [
        "/etc"
        "/usr /lib /lib64"
      ];
      CapabilityBoundingSet = [ "" ];
      ExecStartPre = [
        true'
        "+${true'}"
      ];
      NoNewPrivileges = true;
      PrivateMounts = true;
      PrivateNetwork = false;
      PrivateUsers = true;
      ProcSubset = "pid";
      ProtectProc = "invisible";
      ProtectSystem = "strict";
      RestrictAddressFamilies = local ++ [ "AF_NETLINK" ];
      RootDirectory = "/run/tor/root";
      RootDirectoryStartOnly = true;
      RuntimeDirectory = [
        "tor"
        "tor/root"
        "tor/ClientOnionAuthDir"
      ];
      StateDirectory = [
        "tor"
        "tor/onion"
      ];
      Type = "simple";
    };
    qbittorrent = {
      CapabilityBoundingSet = "";
      NoNewPrivileges = true;
      PrivateNetwork = false;
      PrivateUsers = true;
      ProcSubset = "pid";
      ProtectProc = "invisible";
      ProtectSystem = "full";
      RestrictAddressFamilies = inet ++ [ "AF_NETLINK" ];
      Type = "simple";
    };
    deluged.ExecStartPre = true';
    delugeweb = { };
    rtorrent = {
      CapabilityBoundingSet = [ "" ];
      ExecStartPre = true';
      NoNewPrivileges = true;
      ProtectProc = "invisible";
      ProtectSystem = "full";
      RestrictAddressFamilies = local;
      RuntimeDirectory = "rtorrent";
      Type = "simple";
    };
    sonarr = {
      CapabilityBoundingSet = [ "" ];
      NoNewPrivileges = true;
      PrivateUsers = true;
      ProtectProc = "invisible";
      RestrictAddressFamilies = local;
      StateDirectory = "sonarr";
      Type = "simple";
    };
    jackett = {
      CapabilityBoundingSet = [ "CAP_NET_BIND_SERVICE" ];
      ExecPaths = [ "/usr" ];
      NoExecPaths = [ "/" ];
      NoNewPrivileges = true;
      PrivateMounts = true;
      PrivateUsers = true;
      ProtectProc = "invisible";
      ProtectSystem = "strict";
      ReadWritePaths = [ "/var/lib" ];
      RestrictAddressFamilies = inet;
      Type = "simple";
    };
    sabnzbd = {
      ExecStart = "/bin/sh -c '${program} & sleep 1'";
      ExecStartPre = true';
      StateDirectory = "sabnzbd";
      Type = "forking";
    };
    autobrr = {
      DynamicUser = true;
      LoadCredential = "sessionSecret:/run/secrets/autobrr";
      StateDirectory = "autobrr";
      Type = "simple";
      User = null;
    };
    ipfs = {
      ExecStartPre = true';
      ReadWritePaths = [
        ""
        "/var/lib"
      ];
      Sockets = [
        "ipfs-gateway.socket"
        "ipfs-api.socket"
      ];
      StateDirectory = [ "" ];
      Type = "notify";
    };
    jellyfin = {
      CapabilityBoundingSet = [ "" ];
      NoNewPrivileges = true;
      PrivateUsers = true;
      ProcSubset = "pid";
      ProtectProc = "invisible";
      ProtectSystem = true;
      RestrictAddressFamilies = local ++ [ "AF_NETLINK" ];
      Type = "simple";
    };
    unbound = {
      AmbientCapabilities = [
        "CAP_NET_BIND_SERVICE"
        "CAP_NET_RAW"
      ];
      CapabilityBoundingSet = [
        "CAP_NET_BIND_SERVICE"
        "CAP_NET_RAW"
      ];
      ExecStartPre = true';
      NoNewPrivileges = true;
      ProcSubset = "pid";
      ProtectProc = "invisible";
      ProtectSystem = "strict";
      ReadWritePaths = [ "/var/lib/unbound" ];
      RestrictAddressFamilies = local ++ [ "AF_NETLINK" ];
      RuntimeDirectory = "unbound";
      StateDirectory = "unbound";
      Type = "notify";
    };
    privoxy.ProtectSystem = "full";
    microsocks = {
      LoadCredential = "";
      NoNewPrivileges = true;
      ProtectSystem = "strict";
    };
    # It starts without the bus: the type is forced away, as the refusal says.
    dnsmasq = {
      ExecStartPre = true';
      ProtectSystem = true;
      Type = "simple";
    };
    # As the refusal says
    bitmagnet = {
      BindPaths = [ "/run/postgresql" ];
      ReadWritePaths = [ "/run/postgresql" ];
      StateDirectory = "bitmagnet";
      Type = "simple";
    };
  };
  socket = ListenStream: {
    wantedBy = [ "sockets.target" ];
    socketConfig = { inherit ListenStream; };
  };
  # Of a package, with the name of the service that has them in Sockets=
  packaged = name: {
    path = "lib/systemd/system/${name}.socket";
    text = "[Socket]\nService=ipfs.service\n";
  };

  # What is rebuilt: a confined service, one that is not, and one behind a socket
  former = {
    systemd.services = {
      web = confined (wanted { });
      late = wanted { };
      radio = {
        serviceConfig = {
          User = "seeder";
          ExecStart = program;
        };
      };
    };
    systemd.sockets.radio = socket "8000";
  };
  publish = listen: { my.wireguard.tunnels.demo.publish.${listen} = 9091; };
  confine = name: { systemd.services.${name} = confined { }; };
  rebuild = old: new: {
    old = system "/usr/local" ([ former ] ++ old);
    new = system "/usr/local" ([ former ] ++ new);
  };
in
{
  services = system "/usr/local" [
    {
      systemd.services = mapAttrs (_: settings: confined (wanted settings)) services;
      systemd.packages = map packaged [
        "ipfs-api"
        "ipfs-gateway"
      ];
      systemd.sockets.ipfs-api = socket "127.0.0.1:5001";
      systemd.sockets.ipfs-gateway = socket "127.0.0.1:8081";
    }
    { systemd.services.unbound.before = [ "nss-lookup.target" ]; }
  ];
  rebuilds = rec {
    publish-added = rebuild [ ] [ (publish "127.0.0.1:9091") ];
    publish-changed = rebuild [ (publish "127.0.0.1:9091") ] [ (publish "127.0.0.1:9092") ];
    publish-removed = rebuild [ (publish "127.0.0.1:9092") ] [ ];
    confined-while-running = rebuild [ ] [ (confine "late") ];
    released = rebuild [ (confine "late") ] [ ];
    confined-behind-a-socket = rebuild [ ] [ (confine "radio") ];
    confined-idle-behind-a-socket = confined-behind-a-socket;
    package-updated = {
      old = system "/usr/local" [ former ];
      new = system "/usr/local/new" [ former ];
    };
    left-running = rebuild [ ] [
      (confine "late")
      { systemd.services.late.restartIfChanged = false; }
    ];
  };
}
